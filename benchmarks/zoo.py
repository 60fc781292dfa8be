"""All torchvision models in one process: ours against thop and fvcore, build included.

    python benchmarks/zoo.py                 all three, each in a process of its own
    python benchmarks/zoo.py ours resnet18   one counter, some models, in this process

Each counter builds every model of `torchvision.models.list_models()` and counts it at the same
default input (batch 1, eval mode). thop and fvcore run on the CPU, where they need real tensors.
What fails is reported and its time counts.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
import warnings
from typing import Any

from common import save

COUNTERS = ("ours", "thop", "fvcore")


def count(counter: str, name: str) -> int | None:
    import torch

    from inspector.models import Subject, resolve

    if counter == "ours":
        from inspector.api.profile import trace
        from inspector.views.totals import totals

        return totals(trace(name))["macs"]
    subject = Subject.make(resolve(name), "cpu")
    model = subject.model.eval()
    with torch.no_grad():
        if counter == "thop":
            from thop import profile

            return int(profile(model, inputs=subject.args, verbose=False)[0])
        from fvcore.nn import FlopCountAnalysis

        analysis = FlopCountAnalysis(model, subject.args)
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        return int(analysis.total())


def sweep(counter: str, names: list[str]) -> dict[str, Any]:
    warnings.filterwarnings("ignore")
    macs: dict[str, int | str | None] = {}
    seconds: dict[str, float] = {}
    for name in names:
        start = time.perf_counter()
        try:
            macs[name] = count(counter, name)
        except Exception as error:
            macs[name] = f"{type(error).__name__}: {str(error)[:80]}"
        seconds[name] = round(time.perf_counter() - start, 4)
        print(f"{counter:7} {name:45} {seconds[name]:8.2f} s  {macs[name]}", file=sys.stderr)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    failed = sum(1 for value in macs.values() if isinstance(value, str))
    return {
        "counter": counter,
        "models": len(names),
        "failed": failed,
        "total_seconds": round(sum(seconds.values()), 2),
        "peak_gib": round(peak, 3),
        "seconds": seconds,
        "macs": macs,
    }


def main() -> None:
    from torchvision.models import list_models

    if len(sys.argv) > 1:
        print(json.dumps(sweep(sys.argv[1], sys.argv[2:] or list_models())))
        return
    results = {}
    for counter in COUNTERS:
        done = subprocess.run(
            [sys.executable, __file__, counter], stdout=subprocess.PIPE, text=True, check=True
        )
        results[counter] = json.loads(done.stdout.splitlines()[-1])
    ours = results["ours"]["total_seconds"]
    for counter, result in results.items():
        result["times_ours"] = round(result["total_seconds"] / ours, 1)
        print(
            f"{counter:7} {result['total_seconds']:8.1f} s  {result['times_ours']:6.1f} x"
            f"  {result['peak_gib']:6.2f} GiB  {result['failed']} failed"
        )
    save("zoo", {"counters": results})


if __name__ == "__main__":
    main()
