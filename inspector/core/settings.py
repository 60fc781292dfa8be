"""Every setting with its default, as plain values: a start that changes none needs no yacs and no YAML."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

_DEFAULTS: dict[str, Any] = {
    "MODEL": {"NAME": "resnet50", "ARGS": {}},
    "INPUT": [],
    "SEED": 0,
    "FREEZE": {"AT": None, "SCHEME": "maskrcnn", "PATTERNS": [], "NORM": "freeze", "STAGES": []},
    "INIT": {"SCHEME": None, "A": None, "LAYERS": [], "BIAS": "auto"},
    "DATA": {"SOURCE": "digits", "BATCH": 8, "WORKERS": 0, "AUGMENT": True, "SAMPLES": 512},
    "SOLVER": {
        "OPTIMIZER": "sgd",
        "BASE_LR": 0.001,
        "BIAS_LR_FACTOR": 2.0,
        "WEIGHT_DECAY": 1e-4,
        "WEIGHT_DECAY_BIAS": 0.0,
        "MOMENTUM": 0.9,
        "STEPS": 30,
        "ACCUMULATE": 1,
        "VALIDATE_EVERY": 10,
        "SCHEDULER": {"FACTOR": 0.1, "PATIENCE": 2},
    },
    "AMP": {"ENABLED": False, "DTYPE": "auto"},
    "DDP": {
        "NPROC": None,
        "BACKEND": "auto",
        "SHARD": "ddp",
        "SYNC_BN": False,
        "FIND_UNUSED": False,
        "MAX_RESTARTS": 1,
        "STALL": 60.0,
        "DEADLINE": 600.0,
    },
    "OUTPUT_DIR": None,
}
"""From `DATA` on those of `inspect ddp`. `DATA.SOURCE`: digits, synthetic or a folder of images; `DATA.BATCH`
is that of one process; rates and decays as torch.optim takes them; times in seconds."""


def defaults() -> dict[str, Any]:
    """A copy of all settings, a dict for each group."""
    return deepcopy(_DEFAULTS)
