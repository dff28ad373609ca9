"""gptoss_ft: one YAML file in, a fine-tuned gpt-oss out. `job.py` tells the story of a run."""

__version__ = "0.1.0"
