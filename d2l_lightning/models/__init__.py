"""The documented models, one LightningModule each."""
