"""Memory, communication, loader cores, time and price of a run, before a GPU is booked.

python tools/plan.py --config configs/vit_l_in1k.py --nodes 2 --gpus-per-node 8 [--mfu 0.4 ...] [key=value ...]

Nothing is trained and no GPU is needed; docs/planning.md documents every formula. The defaults describe 8 H100 a node.
"""

from __future__ import annotations

import argparse
import json

from sar_dist.command_help import TerminalHelp, given_path, positive_number, whole_number
from sar_dist.config import RunConfig, load_config, locate_data
from sar_dist.errors import UserError
from sar_dist.files import open_output
from sar_dist.machine import MOST, Machine
from sar_dist.program import run_tool

IMAGENET_1K_IMAGES = 1_281_167


def main() -> None:
    """Parse, plan, print."""
    arguments = parse_arguments()
    config = load_config(arguments.config, arguments.overrides)
    machine = Machine(
        arguments.nodes,
        arguments.gpus_per_node,
        gpu_memory=arguments.gpu_memory,
        peak_tflops=arguments.peak_tflops,
        mfu=arguments.mfu,
        link_gbps=arguments.link_gbps,
        node_link_gbps=arguments.node_link_gbps,
        price_per_gpu_hour=arguments.price_per_gpu_hour,
    )

    from rich.console import Console

    from sar_dist.planning import TABLE_WIDTH, make_plan, plan_tables  # with PyTorch, which takes seconds

    counted = count_train_images(config) if arguments.train_images is None else arguments.train_images
    plan = make_plan(config, machine, IMAGENET_1K_IMAGES if counted is None else counted)
    console = Console(width=max(Console().width, TABLE_WIDTH), soft_wrap=True)
    for item in plan_tables(plan):
        console.print(item, highlight=False)
    if counted is None:
        console.print("data.train is not here: ImageNet-1k's size is assumed; --train-images says another")
    if arguments.json is not None:
        try:
            with open_output(arguments.json) as file:
                file.write(json.dumps(plan.as_dict(), indent=1) + "\n")
        except OSError as error:
            raise UserError(f"cannot write {arguments.json}: {error.strerror}") from error


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=TerminalHelp)
    parser.add_argument("--config", required=True, help="configuration file, or the config.json of a run")
    parser.add_argument("--nodes", type=whole_number(1, 1_000_000), required=True, help="number of nodes")
    parser.add_argument("--gpus-per-node", type=whole_number(1, 1_000_000), required=True, help="GPUs on each node")
    parser.add_argument(
        "--gpu-memory",
        type=positive_number(MOST),
        default=Machine.gpu_memory,
        metavar="GiB",
        help="memory of a GPU (default %(default)s)",
    )
    parser.add_argument(
        "--peak-tflops",
        type=positive_number(MOST),
        default=Machine.peak_tflops,
        help="dense bfloat16 peak of a GPU (default %(default)s)",
    )
    parser.add_argument(
        "--mfu",
        type=positive_number(MOST),
        default=Machine.mfu,
        help="model FLOPs utilisation of the configured setting, assumed, or measured by a run (default %(default)s)",
    )
    parser.add_argument(
        "--link-gbps",
        type=positive_number(MOST),
        default=Machine.link_gbps,
        help="Gbit/s from a GPU to its node (default %(default)s)",
    )
    parser.add_argument(
        "--node-link-gbps",
        type=positive_number(MOST),
        default=Machine.node_link_gbps,
        help="Gbit/s from a node to the others (default %(default)s)",
    )
    parser.add_argument(
        "--price-per-gpu-hour", type=positive_number(MOST), metavar="PRICE", help="adds what the run costs"
    )
    parser.add_argument(
        "--train-images",
        type=whole_number(1, 10**12),
        metavar="N",
        help=f"images of an epoch (default: data.epoch_samples, or counted in data.train; {IMAGENET_1K_IMAGES} where that is missing)",
    )
    parser.add_argument("--json", type=given_path, metavar="PATH", help="also write everything to this file, in bytes")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace those of the file")
    return parser.parse_intermixed_args()


def count_train_images(config: RunConfig) -> int | None:
    """Images of an epoch as configured, or those of all training sets; None where one is not on this machine."""
    from sar_dist.data import load_manifest

    data = config.data
    if data.epoch_samples is not None or not data.training_sets:
        return data.epoch_samples
    try:
        return sum(load_manifest(locate_data("data.train", each.shards), "train").total for each in data.training_sets)
    except UserError:
        return None


if __name__ == "__main__":
    run_tool(main, alone=True)
