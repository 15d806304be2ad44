"""The embedded world: scenes composed from openly licensed pictures, with exact captions and questions."""
