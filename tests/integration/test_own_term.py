"""A term of a user's own file, as a user runs it: trained, logged, resumed, reported, counted."""

from __future__ import annotations

from pathlib import Path

from run_factory import random_model, settings, write_run
from support import read_metrics, run_processes, tool

OWN = '''"""Small logits."""

from sar_dist.terms import TermScores, WeightedTerm


class SmallLogits(WeightedTerm):
    name = "small_logits"

    def __call__(self, output):
        squares = output["logits"].float().square().mean(dim=1)  # B
        return TermScores(squares.mean(), {"small_logits": squares})
'''
TERMS = (
    "terms=[{{name: my_terms:SmallLogits, weight: 0.1}}, {{name: total_variation, weight: 0.2, ramp_epochs: 1, unit: step}}, "
    "{{name: head_diversity, weight: 0.1}}, {{name: attention_entropy, weight: 0.1, decay: none}}, "
    "{{name: distillation, weight: 0.5, kind: soft, teacher: {teacher}}}]"
)


def test_a_term_of_ones_own_is_trained_logged_resumed_and_reported(small_config: Path, tmp_path: Path) -> None:
    (small_config.parent / "my_terms.py").write_text(OWN)
    teacher = write_run(tmp_path / "teacher", settings(), {1: random_model(settings()).vit})
    terms = TERMS.format(teacher=teacher)
    command = ("tools/train.py", f"--config={small_config}", terms)
    stage_3 = ("engine.zero_stage=3", "engine.micro_batch=4", "log.figure_images=1", "profile.sample_every=2")
    run_processes(2, *command, *stage_3, "run.max_steps=3")
    run_processes(2, *command, *stage_3, "run.max_steps=5")
    run = tmp_path / "runs" / "small"
    metrics = read_metrics(run)
    assert sorted(metrics) == [1, 2, 3, 4, 5]
    for step, values in metrics.items():
        names = ("entropy", "small_logits", "total_variation", "head_diversity", "attention_entropy", "distillation")
        summands = [values[f"{name}_weight"] * values[f"loss_{name}"] for name in names]
        assert abs(values["loss"] - values["loss_cls"] - sum(summands)) < 1e-5, step
    assert metrics[1]["small_logits_weight"] == 0.1
    assert metrics[1]["total_variation_weight"] == 0 < metrics[5]["total_variation_weight"]
    validation = read_metrics(run, "val")[5]
    assert validation["small_logits"] > 0
    assert validation["total_variation_block1_head1"] > 0
    assert validation["head_diversity_block1_head0"] != 0
    assert 0 < validation["attention_entropy"] < 2.78  # log 16
    assert validation["distillation"] > 0
    assert read_metrics(run, "step_seconds")[2]["terms"] > 0

    refused = tool("tools/train.py", f"--config={small_config}")
    assert refused.status == 2
    assert "was started with terms=" in refused.stderr

    page = tool("tools/report.py", str(run), "--out", str(tmp_path / "report"))
    assert page.status == 0, page.stderr
    html = (tmp_path / "report" / "report.html").read_text()
    assert "weight of the term my_terms:SmallLogits" in html
    assert "validation small logits" in html

    counted = tool("tools/profile_flops.py", f"--config={small_config}", terms)
    assert counted.status == 0, counted.stderr
    assert "total_variation" in counted.stdout
