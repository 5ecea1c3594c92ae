"""Floor 3: the families put together. harden, audit, pretrain; `build` turns names into objects."""
