"""Checkpoints of trained models."""

from pathlib import Path

from lightning.pytorch import LightningModule, Trainer


def save_checkpoint(model: LightningModule, path: Path) -> None:
    """Write a checkpoint that the model's ``load_from_checkpoint`` reads."""
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.strategy.connect(model)
    trainer.save_checkpoint(path, weights_only=True)
