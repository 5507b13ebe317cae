"""What [CLS] attends to in the last block, against object masks and boxes. See docs/evaluation_attention.md and _boxes.md."""
