"""Many users at once, users who hang up, an hour's memory, and the end, of `janus serve` on this machine.

    python benchmarks/serving.py load [--users 64] [--seconds 300]
    python benchmarks/serving.py soak [--users 8] [--seconds 3600]
    python benchmarks/serving.py hangups [--clients 200]
    python benchmarks/serving.py sigterm [--users 32]
    python benchmarks/serving.py start

Each starts a server with the embedded model in a process of its own, on the loopback address, and shares the
cores with it.  The requests are a fixed list of 32: half are drawings, a quarter questions about what was
drawn, the rest talk and streamed answers; each is first answered alone.  Fails where a promise is broken:

load     none lost, none mixed up (in float32 every picture equals the one drawn alone, pixel by pixel, and
         every answer letter by letter), three times the requests per second of one user
soak     random arrivals; the same, and a straight line through the memory of the last nine tenths rises by
         less than --flat MiB
hangups  within ten seconds of the last one no rows are left, and a good request is answered as before
sigterm  what was sent before the signal is answered whole, what comes later gets 503; it ends by itself,
         with status 0
start    the first picture within 15 seconds of the command
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import random
import shutil
import signal
import statistics
import time
from collections import Counter
from collections.abc import Sequence

import numpy as np
from serving_client import (
    HOST,
    Reply,
    Request,
    Server,
    app,
    client,
    drawing,
    half_sent,
    known,
    same,
    send,
    talking,
)

Answers = dict[Request, str]


async def work(
    server: Server, answers: Answers, users: int, seconds: float, pause: float = 0.0, seed: int = 0
) -> list[Reply]:
    """So many users, one request after the other each; `pause` is the mean of what they wait in between."""
    end = time.monotonic() + seconds
    replies: list[Reply] = []

    async def user(number: int) -> None:
        rng = random.Random(seed * 1000 + number)
        while time.monotonic() < end:
            if pause:
                await asyncio.sleep(rng.expovariate(1 / pause))
            replies.append(await send(web, server.url, rng.choice([*answers])))

    async with client() as web:
        await asyncio.gather(*(user(number) for number in range(users)))
    return replies


def judge(replies: Sequence[Reply], answers: Answers) -> list[str]:
    """What was lost or mixed up, in words; prints latencies by kind."""
    whole = [reply for reply in replies if reply.answer is not None]
    mixed = [r for r in whole if not same(r.request, str(r.answer), answers[r.request])]
    print("\n| kind | requests | median s | p99 s | median s to the first word |\n|---|---|---|---|---|")
    kinds = sorted({reply.request.kind for reply in whole})
    for kind in [*kinds, "all"]:
        own = [reply for reply in whole if kind in (reply.request.kind, "all")]
        took = [reply.seconds for reply in own]
        first = [reply.first - reply.began for reply in own if reply.request.stream]
        told = f"{statistics.median(first):.2f}" if first else ""
        middle, slow = statistics.median(took), np.percentile(took, 99)
        print(f"| {kind} | {len(own)} | {middle:.2f} | {slow:.2f} | {told} |")
    statuses = Counter(reply.status for reply in replies)
    lost = len(replies) - len(whole)
    print(f"\nlost: {lost}, mixed up: {len(mixed)}, by status: {dict(statuses)}")
    broken = [f"{lost} requests were lost"] if lost else []
    return broken + ([f"{len(mixed)} answers were mixed up"] if mixed else [])


def rate(replies: Sequence[Reply]) -> float:
    """Requests per second."""
    took = max(reply.ended for reply in replies) - min(reply.began for reply in replies)
    return len(replies) / took


async def load(options: argparse.Namespace) -> list[str]:
    with Server("--dtype", options.dtype) as server:
        answers = await known(server)
        before = server.rss
        alone = [await work(server, answers, 1, options.alone / 2, seed=1)]
        replies = await work(server, answers, options.users, options.seconds)
        alone.append(await work(server, answers, 1, options.alone / 2, seed=2))
        after, waited = server.rss, server.mean_wait
    one = sum(map(len, alone)) / sum(len(some) / rate(some) for some in alone)
    many = rate(replies)
    broken = judge(replies, answers)
    took = statistics.median(reply.seconds for some in alone for reply in some)
    print(f"{options.users} users, {options.dtype}: {len(replies)} requests, {many:.1f} a second")
    print(f"1 user: {sum(map(len, alone))} requests, {one:.1f} a second, median {took:.2f} s")
    print(f"times as many: {many / one:.2f}; mean wait in the queue {waited:.2f} s")
    print(f"memory of the server: {before:.0f} MiB before, {after:.0f} MiB after")
    if many < options.times * one:
        broken.append(f"{many / one:.2f} times one user's requests a second, not {options.times:g}")
    if options.dtype != "float32":
        broken = [one for one in broken if "mixed" not in one]
    return broken


async def soak(options: argparse.Namespace) -> list[str]:
    with Server("--dtype", options.dtype) as server:
        answers = await known(server)
        seen: list[tuple[float, float]] = []

        async def watch() -> None:
            while True:
                seen.append((time.monotonic(), server.rss))
                await asyncio.sleep(min(10.0, options.seconds / 100))

        watching = asyncio.create_task(watch())
        replies = await work(server, answers, options.users, options.seconds, pause=options.pause)
        watching.cancel()
    broken = judge(replies, answers)
    moments, sizes = np.array(seen[len(seen) // 10 :]).T
    slope = np.polyfit(moments, sizes, 1)[0]
    risen = slope * (moments[-1] - moments[0])
    print(f"{len(replies)} requests, {rate(replies):.1f} a second")
    warm, end, most = sizes[0], sizes[-1], sizes.max()
    print(f"memory of the server: {warm:.0f} MiB warm, {end:.0f} at the end, {most:.0f} at most")
    print(f"a straight line through it rises by {slope * 3600:.1f} MiB an hour, {risen:.1f} MiB in all")
    if risen > options.flat:
        broken.append(f"memory rose by {risen:.1f} MiB, more than {options.flat:g}")
    return broken


async def hang_up(server: Server, request: Request, rng: random.Random) -> str:
    """Close the connection within a second and a half, one way or the other."""
    await asyncio.sleep(rng.uniform(0, 1))
    reader, writer = await asyncio.open_connection(HOST, server.port)
    told = "answered before"
    try:
        writer.write(half_sent(request, server.port, rng))
        await writer.drain()
        await asyncio.wait_for(reader.read(-1), rng.uniform(0, 1.5))
    except TimeoutError:
        told = "hung up"
    except OSError:
        told = "cut off by the server"
    finally:
        if rng.random() < 0.5:
            writer.transport.abort()
        else:
            writer.close()
    return told


async def hangups(options: argparse.Namespace) -> list[str]:
    rng = random.Random(0)
    with Server("--dtype", options.dtype) as server:
        answers = await known(server, 8)
        long = [
            drawing(1, n=4),
            drawing(2, n=4, stream=True, partial_images=2),
            talking(1, True, max_tokens=512, temperature=1.0, seed=1),
            *answers,
        ]
        told = await asyncio.gather(
            *(hang_up(server, rng.choice(long), random.Random(number)) for number in range(options.clients))
        )
        begun = time.monotonic()
        while any((left := await asyncio.to_thread(server.busy)).values()):
            if time.monotonic() > begun + 10:
                return [f"after ten seconds there are still {left}"]
            await asyncio.sleep(0.02)
        took = time.monotonic() - begun
        request, answer = next(iter(answers.items()))
        async with client() as web:
            reply = await send(web, server.url, request)
        dropped = server.figures()["janus_engine_dropped_total"]
    print("| clients | hung up | answered before | dropped by the engine | s until no row was left |")
    print("|---|---|---|---|---|")
    counts = Counter(told)
    print(f"| {len(told)} | {counts['hung up']} | {counts['answered before']} | {dropped:.0f} | {took:.2f} |")
    if reply.answer is None or not same(request, reply.answer, answer):
        return [f"then a good request was answered with status {reply.status} and another picture"]
    return []


async def sigterm(options: argparse.Namespace) -> list[str]:
    replies: list[Reply] = []
    with Server("--dtype", options.dtype) as server:
        answers = await known(server, 8)

        async def user(number: int) -> None:
            rng = random.Random(number)
            while not replies or replies[-1].status:
                replies.append(await send(web, server.url, rng.choice([*answers])))
                if replies[-1].status == 503:
                    await asyncio.sleep(0.1)

        async with client() as web:
            users = [asyncio.create_task(user(number)) for number in range(options.users)]
            await asyncio.sleep(3)
            server.process.send_signal(signal.SIGTERM)
            moment = time.monotonic()
            await asyncio.gather(*users)
        status = await asyncio.to_thread(server.process.wait, 60)
        took = time.monotonic() - moment
    # what was sent in the last half second may not have been read when the signal came
    before = [reply for reply in replies if reply.began < moment - 0.5]
    between = [reply for reply in replies if moment - 0.5 <= reply.began < moment]
    after = [reply for reply in replies if reply.began >= moment]
    whole = [r for r in replies if r.answer is not None and same(r.request, r.answer, answers[r.request])]
    last = max(reply.ended for reply in whole)
    print("| sent | requests | whole | 503 | no answer |\n|---|---|---|---|---|")
    parts = {"before": before, "in the half second before": between, "after": after}
    for name, part in parts.items():
        counts = Counter(reply.status for reply in part)
        print(f"| {name} | {len(part)} | {sum(r in whole for r in part)} | {counts[503]} | {counts[0]} |")
    print(f"in work at the signal: {sum(r.began < moment < r.ended for r in whole)}")
    print(f"status {status} after {took:.1f} s, the last answer after {last - moment:.1f} s")
    broken = [] if status == 0 else [f"the server's status is {status}"]
    if moment + took > last + 4:
        broken.append("the server was still there four seconds after its last answer")
    if any(reply not in whole for reply in before):
        broken.append("a request that was sent before the signal was lost")
    if any(reply not in whole and reply.status != 503 for reply in between):
        broken.append("a request that was sent right before the signal got neither an answer nor 503")
    if any(reply.status != 503 for reply in after if reply.ended < last):
        broken.append("a request that came after the signal, while others were in work, did not get 503")
    return broken


async def start(options: argparse.Namespace) -> list[str]:
    commands = {"janus serve": ("-m", "janus", "serve"), "python app.py": (str(app()),)}
    print("| command | s until / answers | s until the API's first picture | s until one is on screen |")
    print("|---|---|---|---|")
    broken = []
    for name, command in commands.items():
        with Server(command=command) as server:
            page = server.wait_for("/")
            async with client() as web:
                reply = await send(web, server.url, drawing(0))
            first = time.monotonic() - server.started
        seen = await asyncio.to_thread(on_screen, command)
        shown = "no browser" if seen is None else f"{seen:.1f}"
        print(f"| {name} | {page:.1f} | {first:.1f} | {shown} |")
        if reply.answer is None or not base64.b64decode(reply.answer):
            broken.append(f"{name}: status {reply.status}")
        if max(first, seen or 0) > options.within:
            broken.append(f"{name}: not within {options.within:g} s")
    return broken


def on_screen(command: tuple[str, ...]) -> float | None:
    """Seconds from the command to a drawn picture in a browser that was open before; None without one."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        return None
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        with Server(command=command) as server:
            server.wait_for("/")
            page.goto(server.url)
            page.locator("#draw-prompt textarea").fill("a photo of a red car")
            page.locator("#draw-go").click()
            page.locator(".shot img").first.wait_for()
            return time.monotonic() - server.started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    modes = parser.add_subparsers(dest="mode", required=True)
    parts = {name: modes.add_parser(name) for name in ("load", "soak", "hangups", "sigterm", "start")}
    parts["load"].add_argument("--users", type=int, default=64)
    parts["load"].add_argument("--seconds", type=float, default=300)
    parts["load"].add_argument("--alone", type=float, default=60, help="seconds of one user (default: 60)")
    parts["load"].add_argument("--times", type=float, default=3, help="one user's rate (default: 3)")
    parts["soak"].add_argument("--users", type=int, default=8)
    parts["soak"].add_argument("--seconds", type=float, default=3600)
    parts["soak"].add_argument(
        "--pause", type=float, default=1, help="mean seconds between requests (default: 1)"
    )
    parts["soak"].add_argument(
        "--flat", type=float, default=20, help="MiB that memory may rise by (default: 20)"
    )
    parts["hangups"].add_argument("--clients", type=int, default=200)
    parts["sigterm"].add_argument("--users", type=int, default=32)
    parts["start"].add_argument("--within", type=float, default=15, help="seconds (default: 15)")
    for name in ("load", "soak", "hangups", "sigterm"):
        parts[name].add_argument("--dtype", default="float32", help="default: float32")
    options = parser.parse_args()
    runs = {"load": load, "soak": soak, "hangups": hangups, "sigterm": sigterm, "start": start}
    if broken := asyncio.run(runs[options.mode](options)):
        raise SystemExit("\n".join(broken))


if __name__ == "__main__":
    main()
