"""How many wrong labels are found, and how many right ones named: digits, photos and any other data set.

    python tests/bench_labels.py                                            # digits
    python tests/bench_labels.py --dataset hymenoptera_data                 # photos
    python tests/bench_labels.py --dataset kmnist --data data --recipe fast

For each seed a share of the training labels is changed to another class, drawn evenly, a network is trained on these
labels as train.py trains it, and the features of its training and validation images are checked; then the same with the
labels as they are. Prints for each rule the share of the changed labels that it names (found) and that of the others
(named), and the seconds of the check. The rules besides the library's: the label's probability is below a limit, the
label is less probable than another class, and the confident joint of Northcutt et al. 2021: another class has at least
the mean probability that it has among its own images. C: the fit's, in scikit-learn's units, 0 for the library's.
"""

import argparse
import os
import platform
import sys
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from statistics import mean

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from one_run import train_epochs
from torch import Tensor

from neural_lib.config import RECIPES
from neural_lib.data.catalog import DATASETS
from neural_lib.data.images import load_data
from neural_lib.evaluation import label_check
from neural_lib.evaluation.label_check import cross_validated, find_suspects
from neural_lib.pretrained import load_imagenet
from neural_lib.training.probe import features_of
from neural_lib.training.run import build_run, resolve


def changed(labels: Tensor, classes: int, share: float, seed: int) -> Tensor:
    """Labels of which a random share is another class."""
    generator = torch.Generator().manual_seed(1000 + seed)  # another one than the split's, which would draw the same
    chosen = torch.randperm(len(labels), generator=generator)[: round(share * len(labels))]
    given = labels.clone()
    given[chosen] = (labels[chosen] + torch.randint(1, classes, (len(chosen),), generator=generator)) % classes
    return given


def features_for(args: argparse.Namespace, seed: int, share: float) -> tuple[Tensor, Tensor, Tensor]:
    """Features (N, F) of a network that is trained on changed labels, the true labels (N,) and the changed ones."""
    config = RECIPES[args.recipe].config(dataset=args.dataset, seed=seed, **({"arch": args.arch} if args.arch else {}))
    data = load_data(config, args.data)
    given = changed(data.train.labels, len(data.info.classes), share, seed)
    true, data = data.train.labels, replace(data, train=data.train.labelled(given))
    (config,) = resolve([config], data, torch.device("cpu"))
    init = load_imagenet(config.arch) if RECIPES[args.recipe].init else None
    run = train_epochs(build_run(config, data, torch.device("cpu"), init), config.epochs)
    return features_of(run, data.train)[0], true, given


def rules(probabilities: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """For each rule by its name, whether it names an image (N,)."""
    of_label = probabilities.gather(1, labels.unsqueeze(1)).squeeze(1)
    of_best, best = probabilities.max(dim=1)
    is_doubtful = best != labels
    counts = torch.bincount(labels, minlength=probabilities.size(1))
    usual = torch.zeros(len(counts)).index_add(0, labels, of_label) / counts.clamp(min=1)
    confident = torch.where(probabilities >= usual, probabilities, -1).max(dim=1)
    named = {f"label < {limit} x best": of_label < limit * of_best for limit in (0.33, 0.5, 0.6)}
    named |= {f"label < {limit}": is_doubtful & (of_label < limit) for limit in (0.05, 0.1, 0.2)}
    named |= {"confident joint": (confident.values >= 0) & (confident.indices != labels), "any other": is_doubtful}
    suspects = torch.zeros(len(labels), dtype=torch.bool)
    suspects[[each.index for each in find_suspects(probabilities, labels)]] = True
    return {"the library's": suspects} | named


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--data", default="data", help="folder of the data sets")
    parser.add_argument("--recipe", choices=RECIPES, help="default: classic, and photos for a path")
    parser.add_argument("--arch", help="default: the recipe's")
    parser.add_argument("--share", type=float, default=0.05, help="of the labels to change")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--c", type=float, nargs="+", default=[0.0], help="fits to compare")
    args = parser.parse_args()
    args.recipe = args.recipe or ("classic" if args.dataset in DATASETS else "photos")
    own = label_check.C_TIMES_SIZE
    for share in (args.share, 0.0):
        results, seconds = defaultdict(list), []
        for seed in args.seeds:
            features, true, given = features_for(args, seed, share)
            is_wrong = given != true
            for c in args.c:
                in_fit = min(len(given) * 4 // 5, label_check.MAX_IMAGES)
                label_check.C_TIMES_SIZE = c * in_fit * features.size(1) if c else own
                start = time.perf_counter()
                probabilities = cross_validated(features, given, int(true.max()) + 1)
                seconds.append(time.perf_counter() - start)
                for name, named in rules(probabilities, given).items():
                    found = (named & is_wrong).sum().item() / max(is_wrong.sum().item(), 1)
                    results[c, name].append((found, (named & ~is_wrong).sum().item() / (~is_wrong).sum().item()))
        text = f"{len(true):,} images, {features.size(1)} features, {share:.0%} of the labels changed"
        print(f"{args.dataset}, {args.recipe}: {text}; {min(seconds):.2f} to {max(seconds):.2f} s a check")
        for (c, name), shares in results.items():
            found, named = zip(*shares, strict=True)
            of_wrong = f"found {mean(found):4.0%} (at least {min(found):.0%}), " if share else ""
            of_right = f"named {mean(named):5.2%} (at most {max(named):.2%})"
            print(f"  C {c or 'own':5}  {name:18} {of_wrong}{of_right}", flush=True)
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    print(f"n = {len(args.seeds)}; {os.cpu_count()} CPUs, {versions}, {time.strftime('%Y-%m-%d')}")


if __name__ == "__main__":
    main()
