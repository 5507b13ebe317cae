"""Run on every rank: collect this rank's share of a made-up validation and write what all ranks gather.

python gather_details.py IN.pt OUT.pt     IN: the tensors of every image, first dimension split over the ranks
"""

import sys

import torch
import torch.distributed as dist

from sar_dist.training.validation_details import ValidationDetails

dist.init_process_group("gloo")
images = torch.load(sys.argv[1])
details = ValidationDetails(5, torch.device("cpu"))
for batch in range(dist.get_rank(), 6, dist.get_world_size()):
    measures = {name: images[name][batch] for name in ("entropy", "components", "of_images")}
    others = {name: images[name][batch] for name in ("losses", "samples")}
    details.add(*(images[name][batch] for name in ("labels", "predicted", "scored")), measures, **others)
gathered = details.gather()
if dist.get_rank() == 0:
    torch.save({"confusion": gathered.confusion, "hardest": gathered.hardest, **gathered.distributions}, sys.argv[2])
dist.destroy_process_group()
