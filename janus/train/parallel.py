"""One device or many: processes started by `torchrun`, weights sharded by FSDP2.

Every process runs the same code on its own rows; alone, each of these calls does nothing.
"""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from janus.model import Batch, JanusModel, Losses
from janus.train.ahead import LookAhead
from janus.train.depicting import Depicting
from janus.train.looking import Looking
from janus.train.naming import naming_loss


class Parallel:
    """The processes of a run: `rank` of `world`, each with its `device`."""

    def __init__(self, device: str | None = None) -> None:
        self.rank = int(os.environ.get("RANK", 0))
        self.world = int(os.environ.get("WORLD_SIZE", 1))
        kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
        if kind == "cuda" and self.world > 1:
            kind = f"cuda:{os.environ['LOCAL_RANK']}"
            torch.cuda.set_device(kind)
        self.device = torch.device(kind)
        self._began = False
        if self.world > 1 and not dist.is_initialized():
            dist.init_process_group("nccl" if self.device.type == "cuda" else "gloo")
            self._began = True

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes and prints."""
        return self.rank == 0

    def shard(self, model: Trained, bfloat16: bool) -> None:
        """Spread parameters, gradients and optimizer states over the processes, layer by layer.

        The image tokenizer stays whole everywhere: it is frozen, and works outside of the forward pass.
        """
        if self.world == 1:
            return
        model.janus.vision_model.build()
        mesh = init_device_mesh(self.device.type, (self.world,))
        policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16 if bfloat16 else None, reduce_dtype=torch.float32
        )
        for layer in model.janus.core.layers:
            fully_shard(layer, mesh=mesh, mp_policy=policy)
        frozen = set(model.janus.gen_vision_model.parameters())
        fully_shard(model, mesh=mesh, mp_policy=policy, ignored_params=frozen)

    def sum(self, value: Tensor) -> Tensor:
        """Over all processes, in place."""
        if self.world > 1:
            dist.all_reduce(value)
        return value

    def wait(self) -> None:
        """For all others to come here."""
        if self.world > 1:
            dist.barrier()

    def end(self) -> None:
        if self._began:
            dist.destroy_process_group()


class Trained(nn.Module):
    """A model in training.  With several processes, every part takes part in every pass.

    Sharded parameters are gathered and their gradients summed by all processes together, so that a part
    which one process has no data for would keep the others waiting.
    """

    def __init__(
        self,
        model: JanusModel,
        parallel: Parallel,
        look_ahead: float = 0.0,
        naming: float = 0.0,
        depicting: float = 0.0,
        looking: float = 0.0,
        smoothing: float = 0.0,
        smooth_tones: bool = False,
    ) -> None:
        """look_ahead, naming, depicting, looking: weights of those losses (see `janus.train.ahead`, `naming`,
        `depicting` and `looking`), which are added to the balance loss.  smoothing, smooth_tones: of codes,
        while training (see `JanusModel.losses`).

        Raises ValueError for looking with several processes.
        """
        super().__init__()
        self.janus = model
        self.alone = parallel.world == 1
        self.look_ahead, self.naming, self.depicting = look_ahead, naming, depicting
        self.smoothing, self.smooth_tones = smoothing, smooth_tones
        self.told: dict[str, Tensor] = {}  # what the last pass gave for those losses
        self.ahead = LookAhead(model.config.core.width) if look_ahead else None
        self.depict = Depicting(model) if depicting else None
        if looking and not self.alone:
            raise ValueError("looking needs whole layers, which several processes share; train with one")
        self.looking = looking
        self.look = Looking(model) if looking else None

    def forward(self, batch: Batch) -> Losses:
        entering = self.janus.embed(batch)
        hidden = self.janus.hidden(batch, entering)
        smoothing = self.smoothing if self.training else 0.0
        losses = self.janus.losses(hidden, batch, smoothing, self.smooth_tones)
        if self.naming and self.training:
            naming = naming_loss(self.janus, entering, hidden, batch)
            losses.balance = losses.balance + self.naming * naming
            self.told["naming"] = naming.detach()
        if self.ahead is not None and self.training:
            ahead = self.ahead(self.janus, hidden, batch)
            losses.balance = losses.balance + self.look_ahead * ahead
            self.told["look ahead"] = ahead.detach()
        if self.depict is not None and self.training:
            depicted = self.depict(self.janus, batch)
            losses.balance = losses.balance + self.depicting * depicted
            self.told["depicting"] = depicted.detach()
        if self.look is not None and self.training:
            looks = self.look(self.janus, batch)
            losses.balance = losses.balance + self.looking * looks
            self.told["looking"] = looks.detach()
        if not self.alone:
            losses.balance = losses.balance + 0 * self._unused(batch)
        return losses

    def _unused(self, batch: Batch) -> Tensor:
        """Something of every part that has nothing to do in this batch."""
        model, total = self.janus, batch.ids.new_zeros((), dtype=torch.float32)
        if batch.pixels is None:
            side = model.config.vision.image_size
            blank = torch.zeros(1, 3, side, side, device=batch.ids.device)
            total = total + model.embed_images(blank).float().sum()
        if batch.codes is None:
            nothing = batch.ids.new_zeros(1)
            total = total + model.image_logits(model.embed_codes(nothing)).float().sum()
        return total
