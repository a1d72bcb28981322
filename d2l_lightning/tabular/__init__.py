"""Tables with models: cross-validation, predictions from a run, importance of columns."""
