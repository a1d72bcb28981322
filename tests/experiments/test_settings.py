"""Every flag of every experiment has its effects."""

import gzip
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from matplotlib.figure import Figure
from torch.utils.benchmark import Measurement, TaskSpec, Timer
from torch.utils.data import DataLoader

from d2l_lightning.data.kaggle_house import BUNDLED
from d2l_lightning.plots import style
from tests.conftest import ROOT, own_flags, run_outputs
from tests.data.test_fashion_mnist import write
from tests.tools.house_runs import write_house_run
from tests.tools.tables import write_tables

FLATS = "--train {flats}/train.csv --test {flats}/test.csv"
TABLES = "--source {tables}/source.csv --target {tables}/target.csv"
DOMAIN = "--domain_steps 6 --num_permutations 19"
SYNTHETIC = "--num_source 60 --num_target 40 --num_test 50"
TRIALS = "--trials 3 --trial_rows 20 --trial_epochs 2 --kind brightness --amount 0.1 --data_dir {more_images}"
IMAGES = "--data_dir {images} --batch_size 16 --max_epochs 1"
FEW_VALUES = "--hidden_units --hidden_layers --lrs --activations --initializations"
DEEP = "--num_layers 3 --width 6 --sigmas 0.1 --activations tanh --depths 1"
LEARNED = "--data_dir {more_images} --batch_size 4 --max_epochs 5 --lr 0.5 --sigma 0.1"
SEARCH = (
    "--space {spaces}/one.yaml --trials 3 --max_epochs 4 --k 2 --confirm 1 --data_dir {houses}"
    " --batch_size 32 --hidden_sizes 4 --log_price true"
)
LOADED = (
    "--max_epochs 1 --num_rows 90 --num_inputs 3 --block_rows 5 --window_rows 50 --generated_rows 12"
    " --generated_epochs 2"
)
SPLIT = "--validate_on_test false --val_fraction 0.3"

# For each experiment: the flags of a quick run, and for each flag another value and the outputs that must
# change with it, as patterns of the names in `run_outputs`. All outputs that match must change. The words
# after the value are other flags that it needs.
CASES: list[tuple[str, str, dict[str, tuple[str, ...]]]] = [
    (
        "activations",
        "",
        {
            "alpha": ("0.5", "results/pReLU/value", "results/pReLU/derivative"),
            "reach": ("3", "results/*/x", "results/*/value"),
        },
    ),
    (
        "backpropagation",
        f"{IMAGES} {SPLIT} --num_hiddens 6 --memory_batch_sizes 4 8 --memory_depths 1 2",
        {
            "num_hiddens": ("7", "weights/*", "hparams/*/num_hiddens", "results/memory/*/1/[pit]*"),
            "activation": ("tanh", "weights/*", "hparams/*/activation"),
            "lambd": ("0.1", "weights/*", "hparams/*/lambd"),
            "batch_size": ("8", "weights/*", "results/memory/over_depth/*/[it]*"),
            "flip": ("true", "weights/*"),
            "lr": ("0.2", "weights/*", "hparams/*/lr"),
            "sigma": ("0.1", "weights/*", "hparams/*/sigma"),
            "memory_batch_sizes": ("4 16", "results/memory/over_batch_size/2/[it]*"),
            "memory_depths": ("1 3", "results/memory/over_depth/2/[it]*"),
            "val_fraction": ("0.5", "weights/*", "metrics/*val/loss"),
            "validate_on_test": ("true", "weights/*", "metrics/*val/loss"),
            "data_dir": ("{other_images}", "weights/*", "metrics/*val/loss", "results/models/*/test_loss"),
            "seed": ("1", "weights/*"),
        },
    ),
    (
        "bandits",
        "--steps 60 --repeats 3",
        {
            "arms": ("0.1 0.9", "results/regret/*", "results/ucb_bound"),
            "epsilons": ("0.2", "results/regret/eps*"),
            "steps": ("70", "results/regret/*", "results/ucb_bound"),
            "repeats": ("5", "results/regret/*"),
            "seed": ("1", "results/regret/*"),
        },
    ),
    (
        "concept_shift",
        "--num_rows 200",
        {
            "num_inputs": ("4", "results/*"),
            "num_rows": ("150", "results/*"),
            "turn": ("0.5", "results/frozen_error", "results/online_error"),
            "noise": ("0.2", "results/*"),
            "batch_size": ("5", "results/frozen_error", "results/online_error"),
            "lr": ("0.02", "results/frozen_error", "results/online_error"),
            "loss": ("absolute", "results/frozen_error", "results/online_error"),
            "sigma": ("0.5", "results/frozen_error", "results/online_error"),
            "bias": ("false", "results/frozen_error", "results/online_error"),
            "optimizer": ("adamw", "results/frozen_error", "results/online_error"),
            "frozen_after": ("0.5", "results/*"),
            "seed": ("1", "results/*"),
        },
    ),
    (
        "concept_shift",
        "--num_rows 200 --loss huber",
        {"huber_threshold": ("0.1", "results/frozen_error", "results/online_error")},
    ),
    (
        "correct_shift",
        f"{TABLES} --label price --ignore Id cost --steps 6 --batch_size 16 {DOMAIN}",
        {
            "source": ("{tables}/other_source.csv", "csv/weights/weight", "csv/predictions/*corrected"),
            "target": ("{tables}/other_target.csv", "csv/weights/weight", "csv/predictions/*corrected"),
            "label": ("cost --ignore Id price", "csv/predictions/*corrected"),
            "ignore": ("cost", "results/features", "csv/weights/weight", "csv/predictions/*corrected"),
            "task": ("classification", "results/task", "csv/predictions/*corrected"),
            "domain_hidden_sizes": ("4", "csv/weights/weight", "results/detector/auc"),
            "domain_lr": ("0.1", "csv/weights/weight", "results/detector/auc"),
            "domain_steps": ("60", "csv/weights/weight", "results/detector/auc"),
            "k": ("3", "csv/weights/weight", "results/risk_*"),
            "cap": ("1.05", "csv/weights/weight", "csv/predictions/corrected", "results/risk_corrected"),
            "num_permutations": ("9", "results/detector/p_value"),
            "lr": ("0.1", "weights/*", "hparams/*/lr", "csv/predictions/*corrected", "results/risk_*"),
            "steps": ("40", "weights/*", "csv/predictions/*corrected", "results/risk_*"),
            "batch_size": ("8", "weights/*", "csv/predictions/*corrected", "results/risk_*"),
            "seed": ("1", "weights/*", "csv/weights/weight", "csv/predictions/*corrected", "results/risk_*"),
        },
    ),
    (
        "covariate_shift",
        f"{SYNTHETIC} {TRIALS} {DOMAIN} --batch_size 16 --max_epochs 1",
        {
            "num_inputs": ("4", "results/risk_*", "results/weight_correlation"),
            "shift": ("0.5", "results/risk_*", "results/weight_correlation"),
            "curvature": ("0.2", "results/risk_*"),
            "noise": ("0.5", "results/risk_*"),
            "num_source": ("70", "results/risk_*", "printed/rows of the source"),
            "num_target": ("30", "results/weight_correlation", "printed/rows of the target"),
            "num_test": ("40", "results/risk_*"),
            "domain_hidden_sizes": ("4", "results/detector/auc", "results/weight_corr*", "printed/with*"),
            "domain_lr": ("0.5", "results/detector/auc", "results/weight_corr*", "printed/without*"),
            "domain_steps": ("60", "results/detector/auc", "results/weight_correlation"),
            "k": ("3", "results/weight_correlation", "results/risk_corrected"),
            "cap": ("1.01", "results/weight_correlation", "results/risk_corrected"),
            "trials": ("8", "results/detector/trials", "printed/without shift"),
            "trial_rows": ("10", "printed/with*"),
            "trial_epochs": ("1", "printed/without*"),
            "kind": ("noise", "printed/with shift"),
            "amount": ("0.95", "printed/with shift"),
            "num_permutations": ("9", "results/detector/p_value", "results/detector/power"),
            "batch_size": ("8", "results/risk_*"),
            "lr": ("0.1", "results/risk_*"),
            "sigma": ("0.5", "results/risk_*"),
            "bias": ("false", "results/risk_*"),
            "optimizer": ("adamw", "results/risk_*"),
            "data_dir": ("{other_more_images}", "printed/with shift"),
            "seed": ("1", "results/risk_*", "results/weight_correlation", "printed/with*"),
        },
    ),
    (
        "covariate_shift_houses",
        f"--data_dir {{houses}} --max_epochs 1 {DOMAIN}",
        {
            "split_by": ("Neighborhood --neighborhoods NAmes", "results/risk_*"),
            "year": ("1980", "results/risk_*", "printed/rows of the*"),
            "domain_hidden_sizes": ("4", "results/detector/auc", "results/effective_sample_size"),
            "domain_lr": ("0.5", "results/effective_sample_size", "results/risk_corrected"),
            "domain_steps": ("60", "results/effective_sample_size", "results/risk_corrected"),
            "k": ("3", "results/effective_sample_size", "results/risk_corrected"),
            "cap": ("0.3", "results/effective_sample_size", "results/risk_corrected"),
            "num_permutations": ("9", "results/detector/p_value"),
            "hidden_sizes": ("4", "results/risk_*"),
            "lr": ("0.1", "results/risk_*"),
            "weight_decay": ("1", "results/risk_*"),
            "batch_size": ("32", "results/risk_*"),
            "data_dir": ("{other_houses}", "results/risk_*"),
            "seed": (
                "1",
                "results/risk_*",
                "results/effective_sample_size",
                "metrics/train/loss/uncorrected",
            ),
        },
    ),
    (
        "covariate_shift_houses",
        f"--split_by Neighborhood --neighborhoods NAmes --data_dir {{houses}} --max_epochs 1 {DOMAIN}",
        {"neighborhoods": ("NAmes OldTown", "results/risk_*", "printed/rows of the*")},
    ),
    (
        "covariate_shift_houses",
        f"--hidden_sizes 4 --data_dir {{houses}} --max_epochs 1 {DOMAIN}",
        {
            "activation": ("tanh", "results/risk_*"),
            "dropout": ("0.5", "results/risk_*"),
            "parametrization": ("ntk", "results/risk_*"),
            "loss": ("huber --huber_threshold 0.1", "results/risk_*"),
            "optimizer": ("adamw --weight_decay 0.5", "results/risk_*"),
        },
    ),
    (
        "covariate_shift_houses",
        f"--loss huber --optimizer adamw --data_dir {{houses}} --max_epochs 1 {DOMAIN}",
        {
            "huber_threshold": ("0.01", "results/risk_*"),
            "bias_lr": ("0.5", "results/risk_*"),
            "betas": ("0.5 0.6", "results/risk_*"),
            "schedule": ("cosine", "results/risk_*"),
            "l1": ("0.5", "results/risk_*"),
            "label_noise": ("0.5", "results/risk_*"),
        },
    ),
    (
        "covariate_shift_images",
        f"{IMAGES} --data_dir {{more_images}} --num_source 60 --source_share 0.3 --target_share 0.7 {DOMAIN}",
        {
            "kind": ("noise --amount 1", "results/risk_*"),
            "amount": ("45", "results/risk_*"),
            "source_share": ("0.4", "results/risk_*"),
            "target_share": ("0.9", "results/risk_*"),
            "num_source": ("50", "results/risk_*", "printed/rows of the source"),
            "domain_hidden_sizes": ("4", "results/detector/auc", "results/weight_correlation"),
            "domain_lr": ("0.5", "results/detector/auc", "results/weight_correlation"),
            "domain_steps": ("60", "results/detector/auc", "results/weight_correlation"),
            "k": ("3", "results/weight_correlation", "results/risk_corrected"),
            "cap": ("1.01", "results/weight_correlation", "results/risk_corrected"),
            "num_permutations": ("9", "results/detector/p_value"),
            "lr": ("0.1", "results/risk_*"),
            "sigma": ("0.5", "results/risk_*"),
            "optimizer": ("adamw", "results/risk_*"),
            "batch_size": ("8", "results/risk_*"),
            "data_dir": ("{other_more_images}", "results/risk_*"),
            "seed": ("1", "results/risk_*", "results/weight_correlation"),
        },
    ),
    (
        "data_loading",
        LOADED,
        {
            "num_rows": ("110", "results/disk/*/w_error", "results/batches/*/batches"),
            "num_inputs": ("4", "results/disk/*/w_error", "results/generated/*_loss"),
            "noise": ("2", "results/disk/*/w_error", "results/generated/*_loss", "results/first_targets/*"),
            "batch_size": (
                "16",
                "results/disk/*/w_error",
                "results/disk/*/unevenness",
                "results/batches/*/batches",
            ),
            "lr": ("0.1", "results/disk/*/w_error", "results/generated/*_loss"),
            "block_rows": ("10", "results/disk/[fbw]*/reads", "results/disk/[bw]*/w_error"),
            "window_rows": ("60", "results/disk/[fwr]*/rows_in_memory", "results/disk/[wr]*/w_error"),
            "generated_rows": ("20", "results/generated/*"),
            "generated_epochs": ("3", "results/generated/*_loss", "results/generated/new/rows_seen"),
            "seed": ("1", "results/disk/*/w_error", "results/generated/*_loss", "results/first_targets/*"),
        },
    ),
    (
        "dropout",
        f"{IMAGES} {SPLIT} --hidden_sizes 8 6 --dropouts 0.2 0.5 --num_masks 3 --variants with_decay",
        {
            "hidden_sizes": ("7 6", "weights/*", "hparams/*/hidden_sizes"),
            "dropouts": ("0.3 0.5", "weights/*", "hparams/*/dropouts", "results/uncertainty/*e"),
            "noise": ("gaussian", "weights/concise", "hparams/concise/noise"),
            "num_seeds": ("2", "results/accuracies/*"),
            "batch_size": ("8", "weights/*"),
            "flip": ("true", "weights/*"),
            "lr": ("0.1", "weights/*", "hparams/*/lr"),
            "sigma": ("0.1", "weights/*", "hparams/*/sigma"),
            "weight_decay": ("0.1", "weights/with_decay", "hparams/with_decay/weight_decay"),
            "num_masks": ("2", "results/uncertainty/confidence", "results/uncertainty/spread"),
            "variants": ("swapped", "results/models/with_decay/*", "results/models/swapped/*"),
            "val_fraction": ("0.5", "weights/*", "metrics/*val/loss"),
            "validate_on_test": ("true", "weights/*", "metrics/*val/loss"),
            "data_dir": ("{other_images}", "weights/*", "metrics/*val/loss", "results/models/*/test_loss"),
            "seed": ("1", "weights/*", "results/uncertainty/spread"),
        },
    ),
    (
        "search_house",
        f"{SEARCH} --pruner none",
        {
            "space": ("{spaces}/other.yaml", "csv/trials/lr", "results/best/settings/lr"),
            "trials": ("4", "results/settings", "csv/trials/lr"),
            "k": ("3", "csv/trials/fold_1", "csv/trials/value", "results/best/value"),
            "folds": ("shuffled", "csv/trials/fold_1", "csv/trials/value", "results/best/value"),
            "batch_size": ("16", "csv/trials/value", "results/again/value"),
            "hidden_sizes": ("5", "csv/trials/value", "results/again/value"),
            "confirm": ("2", "results/again/folds", "results/again/value"),
            "data_dir": ("{other_houses}", "csv/trials/value", "results/again/value"),
            "pruner": (
                "halving --first_rung 1",
                "csv/trials/state",
                "csv/trials/epochs",
                "results/trials/pruned",
            ),
            "seed": ("1", "csv/trials/value", "csv/trials/lr", "results/again/value"),
        },
    ),
    (
        "search_house",
        f"{SEARCH} --first_rung 1 --reduction 2",
        {
            "first_rung": ("2", "csv/trials/epochs", "results/saved"),
            "reduction": ("5", "csv/trials/epochs", "results/saved"),
        },
    ),
    (
        "exponential_noise",
        "--max_epochs 1 --num_train 5 --lrs 0.3",
        {
            "lrs": ("0.2", "results/distances/*", "results/lrs"),
            "location": ("1", "results/truth", "results/mean", "results/median", "results/minimisers/*"),
            "num_train": ("6", "results/mean", "results/median", "results/distances/*"),
            "batch_size": ("2", "results/distances/*"),
            "seed": ("1", "results/mean", "results/median", "results/distances/*"),
        },
    ),
    (
        "house_ablation",
        "--recipe {recipes}/one.yaml --splits 1 --k 2 --models 1",
        {
            "recipe": ("{recipes}/other.yaml", "results/pooled_val_log_rmse/*"),
            "splits": ("2", "csv/ablation/2"),
            "k": ("3", "results/pooled_val_log_rmse/*", "csv/ablation/1"),
            "models": ("2", "results/pooled_val_log_rmse/*"),
            "seed": ("1", "results/pooled_val_log_rmse/*"),
        },
    ),
    (
        "house_comparison",
        "--data_dir {houses} --methods book lasso --k 3 --max_epochs 2",
        {
            "methods": ("lasso", "csv/comparison/method", "results/methods/book/*", "printed/the book's net"),
            "k": ("4", "results/k", "results/methods/*/folds", "results/methods/*/pooled"),
            "folds": ("shuffled", "results/fold_scheme", "results/methods/*/folds"),
            "data_dir": ("{other_houses}", "results/methods/*/folds", "results/methods/*/pooled"),
            "seed": ("1", "results/methods/book/folds"),
        },
    ),
    (
        "initialization",
        f"{IMAGES} {SPLIT} {DEEP}",
        {
            "num_layers": ("4", "results/training/*/test_loss", "results/schemes/*/relu/*/last"),
            "width": ("7", "results/training/*/test_loss", "results/schemes/*/relu/*/last"),
            "activation": ("sigmoid", "results/training/*/test_loss", "results/schemes/*/sigmoid/*"),
            "sigmas": ("0.2", "results/training/normal*/test_loss", "results/schemes/normal*/*"),
            "activations": ("sigmoid", "results/schemes/*/tanh/*", "results/schemes/*/sigmoid/*"),
            "batch_size": ("8", "results/training/*/test_loss"),
            "flip": ("true", "results/training/*/test_loss"),
            "lr": ("0.5", "results/training/*/test_loss"),
            "val_fraction": ("0.5", "metrics/*val/loss", "results/training/*/test_loss"),
            "validate_on_test": ("true", "metrics/*val/loss", "results/training/*/test_loss"),
            "data_dir": ("{other_images}", "metrics/*val/loss", "results/training/*/test_loss"),
            "seed": ("1", "results/training/*/test_loss"),
        },
    ),
    (
        "kaggle_house",
        "--data_dir {houses} --max_epochs 2 --k 3 --hidden_sizes 4 --batch_size 16 --lr 0.1",
        {
            "k": ("4", "results/folds/*", "weights/fold_*"),
            "lr": ("0.2", "weights/*", "hparams/*/lr", "csv/submission/SalePrice"),
            "weight_decay": ("1", "weights/*", "hparams/*/weight_decay", "csv/submission/SalePrice"),
            "batch_size": ("8", "weights/*", "csv/submission/SalePrice"),
            "folds": ("shuffled", "weights/fold_*", "results/folds/*", "csv/oof_predictions/fold"),
            "repeats": ("2 --folds stratified", "results/folds/[456]/*", "weights/fold_3_repeat_2"),
            "final_models": ("2", "weights/final*", "csv/submission/SalePrice"),
            "drop_last": ("true", "weights/*", "csv/submission/SalePrice"),
            "log_price": ("true", "weights/*", "hparams/*/log_price", "csv/submission/SalePrice"),
            "hidden_sizes": ("5", "weights/*", "hparams/*/hidden_sizes", "csv/submission/SalePrice"),
            "dropout": ("0.5", "weights/*", "hparams/*/dropout", "csv/submission/SalePrice"),
            "activation": ("tanh", "weights/*", "hparams/*/activation", "csv/submission/SalePrice"),
            "parametrization": ("ntk", "weights/*", "hparams/*/parametrization"),
            "loss": ("huber", "weights/*", "hparams/*/loss", "csv/submission/SalePrice"),
            "optimizer": ("adamw --weight_decay 1", "weights/*", "hparams/*/optimizer"),
            "statistics": ("train", "weights/*", "results/folds/*", "csv/submission/SalePrice"),
            "features": ("ames", "results/features", "weights/*", "csv/submission/SalePrice"),
            "missing": ("indicator", "results/features", "weights/*", "csv/submission/SalePrice"),
            "data_dir": ("{other_houses}", "weights/*", "results/folds/*", "csv/submission/SalePrice"),
            "seed": ("1", "weights/*", "csv/submission/SalePrice"),
        },
    ),
    (
        "kaggle_house",
        "--data_dir {houses} --max_epochs 2 --k 3 --log_price true --lr 0.1 --loss huber --optimizer adamw",
        {
            "standardize": ("true", "weights/*", "hparams/*/standardize", "csv/submission/SalePrice"),
            "clip": ("true", "hparams/*/clip", "weights/*"),
            "huber_threshold": ("0.1", "weights/*", "hparams/*/huber_threshold"),
            "bias_lr": ("0.5", "weights/*", "hparams/*/bias_lr", "csv/submission/SalePrice"),
            "betas": ("0.5 0.6", "weights/*", "hparams/*/betas", "csv/submission/SalePrice"),
            "schedule": ("cosine", "weights/*", "hparams/*/schedule", "csv/submission/SalePrice"),
            "l1": ("0.1", "weights/*", "hparams/*/l1", "csv/submission/SalePrice"),
            "label_noise": ("0.5", "weights/*", "hparams/*/label_noise", "csv/submission/SalePrice"),
        },
    ),
    (
        "kaggle_table",
        f"{FLATS} --id id --label rent --ignore note --max_epochs 2 --k 3 --batch_size 16 --final_models 1",
        {
            "train": ("{flats}/other_train.csv", "weights/*", "csv/oof_predictions/rent"),
            "test": ("{flats}/other_test.csv", "csv/submission/rent"),
            "id": ("note --ignore id", "csv/oof_predictions/note", "csv/submission/note"),
            "label": ("rooms --ignore note rent", "csv/oof_predictions/rooms", "weights/*"),
            "ignore": ("note street", "results/features", "csv/importance/column"),
            "metric": ("mae", "results/metric", "results/val_mae", "hparams/*/metric"),
            "features": ("columns", "results/features", "weights/*"),
            "missing": ("mean", "results/features", "weights/*"),
            "statistics": ("train", "weights/fold_*"),
            "batch_size": ("8", "weights/*"),
            "drop_last": ("true", "weights/*"),
            "log_target": ("true", "weights/*", "hparams/*/log_target"),
            "k": ("4", "results/folds/*", "weights/fold_*"),
            "folds": ("group:street", "weights/fold_*", "results/folds/*"),
            "repeats": ("2 --folds shuffled", "results/folds/[456]/*", "weights/fold_3_repeat_2"),
            "final_models": ("2", "weights/final*", "csv/submission/rent"),
            "seed": ("1", "weights/*", "csv/submission/rent"),
        },
    ),
    (
        "label_shift",
        f"{LEARNED} --val_fraction 0.3 --num_target 60 --hidden_sizes 32",
        {
            "hidden_sizes": ("31", "weights/*", "hparams/*/hidden_sizes"),
            "activation": ("tanh", "weights/*", "hparams/*/activation"),
            "initialization": ("kaiming", "weights/*", "hparams/*/initialization"),
            "dropouts": ("0.1", "weights/*", "hparams/*/dropouts"),
            "noise": ("gaussian --dropouts 0.05", "weights/*", "hparams/*/noise"),
            "batch_norm": ("true", "weights/*", "hparams/*/batch_norm"),
            "label_smoothing": ("0.1", "weights/*", "hparams/*/label_smoothing"),
            "schedule": ("one_cycle", "weights/*", "hparams/*/schedule"),
            "weight_decay": ("0.001", "weights/*", "hparams/*/weight_decay"),
            "concentration": ("3", "results/shares/target/shirt", "weights/after", "weights/oracle"),
            "num_target": ("70", "results/total_variation", "weights/after", "weights/oracle"),
            "soft": ("true", "results/condition", "results/total_variation", "weights/after"),
            "batch_size": ("5", "weights/*"),
            "lr": ("0.4", "weights/*", "hparams/*/lr"),
            "sigma": ("0.05", "weights/*", "hparams/*/sigma"),
            "val_fraction": ("0.4", "weights/*"),
            "data_dir": ("{other_more_images}", "weights/*"),
            "seed": ("2", "weights/*", "results/shares/target/shirt"),
        },
    ),
    (
        "label_shift",
        f"{LEARNED} --val_fraction 0.3 --num_target 60 --hidden_sizes 32 --lr 0.1",
        {"optimizer": ("adamw", "weights/*", "hparams/*/optimizer")},
    ),
    (
        "linear_regression",
        "--max_epochs 1 --num_train 40 --num_val 20 --loss huber",
        {
            "w": ("1 -2 3", "weights/*", "results/models/*", "results/amounts/w_error"),
            "b": ("1", "weights/*", "results/models/*", "results/amounts/w_error"),
            "noise": ("0.5", "weights/*", "results/models/*", "results/amounts/*_error"),
            "num_train": ("50", "weights/*", "results/models/*"),
            "num_val": ("10", "metrics/*val/loss"),
            "batch_size": ("8", "weights/*"),
            "lr": ("0.1", "weights/*", "hparams/*/lr"),
            "sigma": ("0.5", "weights/*", "hparams/*/sigma"),
            "loss": ("absolute", "weights/concise", "hparams/concise/loss"),
            "huber_threshold": ("0.1", "weights/concise", "hparams/concise/huber_threshold"),
            "drop_last": ("true", "weights/*", "results/data/batches"),
            "shuffle": ("false", "weights/*"),
            "seed": ("1", "weights/*", "results/models/*", "results/amounts/*_error"),
        },
    ),
    (
        "layer_rates",
        f"{IMAGES} {SPLIT} --num_layers 3 --width 6 --factor 2 --sgd_lrs 0.1 --lars_lrs 1 --num_train 40",
        {
            "num_layers": ("4", "results/relative_gradients/*", "results/fits/*/best_losses"),
            "width": ("7", "results/relative_gradients/*", "results/fits/*/best_losses"),
            "factor": ("3", "results/relative_gradients/rescaled", "results/fits/*rescaled/best_losses"),
            "sgd_lrs": ("0.2", "results/fits/SGD*/val_accuracy/*", "results/fits/SGD*/best_lr"),
            "lars_lrs": ("2", "results/fits/LARS*/val_accuracy/*", "results/fits/LARS*/best_losses"),
            "num_train": ("30", "results/fits/*/best_losses"),
            "batch_size": ("8", "results/fits/*/best_losses"),
            "val_fraction": ("0.5", "results/relative_gradients/*", "results/fits/*/best_losses"),
            "validate_on_test": ("true", "results/relative_gradients/*", "results/fits/*/best_losses"),
            "data_dir": ("{other_images}", "results/relative_gradients/*", "results/fits/*/best_losses"),
            "seed": ("1", "results/fits/*/best_losses"),
        },
    ),
    (
        "mlp_settings",
        f"{IMAGES} {SPLIT} {FEW_VALUES} --num_seeds 1 --num_train 40",
        {
            "hidden_units": ("9", "results/settings/hidden units/9"),
            "hidden_layers": ("2", "results/settings/hidden layers/2"),
            "lrs": ("3.0", "results/settings/learning rate/3.0", "metrics/book/train/loss/learning_rate_3*"),
            "activations": ("tanh", "results/settings/activation/tanh"),
            "initializations": ("kaiming", "metrics/book/train/loss/initialization_kaiming*"),
            "num_seeds": ("2", "results/settings/*", "metrics/book/train/loss/book_seed_1"),
            "num_train": ("30", "weights/*", "metrics/*train/loss"),
            "batch_size": ("8", "weights/*"),
            "val_fraction": ("0.5", "weights/*"),
            "validate_on_test": ("true", "weights/*"),
            "data_dir": ("{other_images}", "weights/*"),
            "seed": ("1", "weights/*"),
        },
    ),
    (
        "mlp",
        f"{IMAGES} {SPLIT} --hidden_sizes 8",
        {
            "hidden_sizes": ("6", "weights/*", "hparams/scratch/num_hiddens", "hparams/concise/hidden_sizes"),
            "activation": ("tanh", "weights/concise", "hparams/concise/activation"),
            "initialization": ("kaiming", "weights/concise", "hparams/concise/initialization"),
            "sigma": ("0.1", "weights/*", "hparams/*/sigma"),
            "dropouts": ("0.5", "weights/concise", "hparams/concise/dropouts"),
            "noise": ("gaussian --dropouts 0.5", "weights/concise", "hparams/concise/noise"),
            "batch_norm": ("true", "weights/concise", "hparams/concise/batch_norm"),
            "label_smoothing": ("0.1", "weights/concise", "hparams/concise/label_smoothing"),
            "batch_size": ("8", "weights/*"),
            "optimizer": ("adamw", "weights/concise", "hparams/concise/optimizer"),
            "lr": ("0.2", "weights/*", "hparams/*/lr"),
            "schedule": ("one_cycle", "weights/concise", "hparams/concise/schedule"),
            "weight_decay": ("0.1", "weights/concise", "hparams/concise/weight_decay"),
            "flip": ("true", "weights/*"),
            "val_fraction": ("0.5", "weights/*", "metrics/*val/loss"),
            "validate_on_test": ("true", "weights/*", "metrics/*val/loss"),
            "data_dir": ("{other_images}", "weights/*", "metrics/*val/loss", "results/models/*/test_loss"),
            "seed": ("1", "weights/*"),
        },
    ),
    (
        "normal_distribution",
        "",
        {
            "means": ("0 0 2", "results/densities/3/mean"),
            "stds": ("1 2 3", "results/densities/3/std", "results/densities/3/peak"),
            "noise": ("0.5", "results/weights/*"),
            "seed": ("1", "results/weights/*"),
        },
    ),
    (
        "physical_laws",
        "--max_epochs 3 --num_train 10 --factors 2",
        {
            "factors": ("3", "results/*/starts", "results/*/estimates/*"),
            "lr": ("0.1", "results/*/estimates/*"),
            "resistance": ("100", "results/ohm/truth", "results/ohm/least_squares", "results/ohm/starts"),
            "voltage_noise": ("0.5", "results/ohm/least_squares"),
            "temperature": ("3000", "results/planck/truth", "results/planck/estimates/*"),
            "density_noise": ("0.5", "results/planck/estimates/log_T*"),
            "num_train": ("12", "results/ohm/least_squares", "results/planck/estimates/log_T"),
            "batch_size": ("5", "results/*/estimates/*"),
            "seed": ("1", "results/ohm/least_squares", "results/planck/estimates/log_T*"),
        },
    ),
    (
        "poisson_regression",
        "--max_epochs 1 --draws 2 --num_train 20 --num_val 10 --batch_size 20",
        {
            "draws": ("3", "results/models/*/rmse", "results/models/*/weights"),
            "w": ("1 2 3", "results/true_weights", "results/models/*/weights"),
            "b": ("1", "results/true_weights", "results/models/*/rmse"),
            "num_train": ("15", "results/models/*/rmse"),
            "num_val": ("11", "results/models/*/rmse"),
            "batch_size": ("10", "results/models/*/weights", "weights/*"),
            "lr": ("0.1", "results/models/*/weights", "weights/*", "hparams/*/lr"),
            "seed": ("1", "results/models/*/rmse", "results/rates/*/mean"),
        },
    ),
    (
        "polynomial_regression",
        "--max_epochs 1 --degrees 3 1 --epochs 2 2 --max_degree 3 --num_train 30 --num_val 20",
        {
            "w": ("4 1.2 -3.4 5.6", "weights/degree_1", "results/half_squared/*", "results/selection/*_loss"),
            "noise": ("1", "weights/*", "results/fits/*_loss", "results/selection/*_loss"),
            "num_train": ("40", "weights/*", "results/selection/*_loss"),
            "num_val": ("10", "results/fits/*test_loss"),
            "degrees": ("3 2", "results/fits/1/*", "results/fits/2/*"),
            "epochs": ("3 2", "weights/degree_3*"),
            "basis": ("standardized", "weights/*", "results/selection/[tv]*_loss"),
            "batch_size": ("5", "weights/*", "results/selection/[tv]*_loss"),
            "lr": ("0.02", "weights/*", "hparams/*/lr", "results/selection/[tv]*_loss"),
            "sigma": ("0.1", "weights/*", "hparams/*/sigma", "results/selection/[tv]*_loss"),
            "loss": (
                "half_squared",
                "weights/degree_1",
                "hparams/degree_1/loss",
                "results/selection/[tv]*_loss",
            ),
            "k": ("3", "results/selection/*_loss"),
            "max_degree": ("2", "results/selection/*_loss"),
            "seed": ("1", "weights/*", "results/fits/*_loss", "results/selection/*_loss"),
        },
    ),
    (
        "polynomial_regression",
        "--max_epochs 1 --degrees 1 --epochs 2 --max_degree 3 --num_train 30 --num_val 20 --loss huber",
        {
            "huber_threshold": (
                "0.1",
                "weights/*",
                "hparams/*/huber_threshold",
                "results/selection/[tv]*_loss",
            )
        },
    ),
    (
        "exact_polynomials",
        "--max_degree 3 --degrees 1 --num_train 20 --num_val 10",
        {
            "max_degree": ("4", "results/exact/*"),
            "degrees": ("2", "results/amounts/*"),
            "w": ("4 1 2", "results/exact/*", "results/amounts/*_loss"),
            "noise": ("1", "results/exact/*", "results/amounts/*_loss"),
            "num_train": ("25", "results/exact/*"),
            "num_val": ("15", "results/exact/test_loss"),
            "seed": ("1", "results/exact/*", "results/amounts/*_loss"),
        },
    ),
    (
        "generalization",
        "--draws 5 --ks 2 --num_rows 30 --your_rows 60 --your_features 5",
        {
            "num_features": ("9", "results/k_fold/[mlt]*", "results/zero_error/*"),
            "num_rows": ("32", "results/k_fold/[mlt]*"),
            "noise": ("2", "results/k_fold/[mlt]*", "results/learning_curve/*/loss"),
            "ks": ("3", "results/k_fold/[kmt]*"),
            "draws": ("6", "results/k_fold/measured"),
            "your_rows": ("70", "results/learning_curve/*"),
            "your_features": ("6", "results/learning_curve/*/loss"),
            "seed": ("1", "results/k_fold/measured", "results/learning_curve/*/loss"),
        },
    ),
    (
        "matrix_products",
        "--num_matrices 3 --matrix_size 3",
        {
            "num_matrices": ("4", "results/product*"),
            "matrix_size": ("4", "results/first", "results/product*"),
            "seed": ("1", "results/first", "results/product*"),
        },
    ),
    (
        "nonlinearity",
        "--max_epochs 2 --num_rows 20 --hidden_sizes 3 --batch_size 8",
        {
            "num_rows": ("22", "weights/*", "results/straight_line_loss"),
            "waves": ("2", "weights/*", "results/straight_line_loss"),
            "batch_size": ("10", "weights/*"),
            "hidden_sizes": ("4 2", "weights/*", "hparams/*/hidden_sizes"),
            "lr": ("0.1", "weights/*", "hparams/*/lr"),
            "seed": ("1", "weights/*", "results/batch/st*/std"),
        },
    ),
    (
        "polynomial_features",
        "--max_epochs 1 --degree 3 --lrs 0.001 0.01",
        {
            "degree": ("2", "results/bases/*/condition_number", "results/bases/*/train_loss"),
            "lrs": ("0.001 0.002", "results/bases/*/train_loss"),
            "batch_size": ("20", "results/bases/*/train_loss"),
            "seed": ("1", "results/*_loss"),
        },
    ),
    (
        "backpropagation_cost",
        "--widths 2 --batch_size 8 --parts 1 2 --seconds 0.0001",
        {
            "widths": ("3", "results/sizes/1/parameters"),
            "batch_size": ("9", "results/parts/1/bytes"),
            "parts": ("1 4", "results/parts/2/parts"),
        },
    ),
    (
        "symmetry",
        f"{IMAGES} {SPLIT}",
        {
            "lr": ("0.5", "results/perceptrons/random/change", "results/regression/*"),
            "batch_size": ("8", "results/perceptrons/random/change", "results/regression/softmax*"),
            "flip": ("true", "results/perceptrons/random/change"),
            "val_fraction": ("0.5", "results/perceptrons/random/change", "results/regression/softmax*"),
            "validate_on_test": ("true", "results/perceptrons/random/change", "results/regression/softmax*"),
            "data_dir": (
                "{other_images}",
                "results/perceptrons/random/change",
                "results/regression/softmax*",
            ),
            "seed": ("1", "results/perceptrons/random/change", "results/regression/*"),
        },
    ),
    (
        "second_derivatives",
        "--dims 3 --num_rows 20 --steps 2",
        {
            "dims": ("4", "results/sizes/1/d", "results/sizes/1/megabytes"),
            "num_rows": ("30", "results/kinks/*/reweighted", "results/network/losses/*"),
            "noise": ("1", "results/kinks/*/reweighted", "results/rows/*/damped"),
            "steps": ("3", "results/network/losses/*", "results/kinks/abs*/reweighted"),
            "damping": ("0.1", "results/rows/*/damped", "results/network/losses/Gauss*"),
            "seed": ("1", "results/kinks/*/reweighted", "results/rows/*/damped", "results/network/losses/*"),
        },
    ),
    (
        "sgd",
        "--max_epochs 1 --num_train 40 --num_val 10 --lrs 0.1",
        {
            "batch_size": ("8", "results/rates/error", "results/outlier/*/regular", "results/order/*"),
            "lr": ("0.05", "results/starts/error", "results/outlier/*/regular", "results/summed/kept"),
            "lrs": ("0.2", "results/rates/error"),
            "outlier": ("100", "results/outlier/half*/outlier"),
            "order_lr": ("0.2", "results/order/*"),
            "order_noise": ("2", "results/order/*"),
            "seed": ("1", "results/rates/error", "results/outlier/*/regular", "results/order/*"),
        },
    ),
    (
        "softmax_regression",
        f"{IMAGES} {SPLIT}",
        {
            "batch_size": ("8", "weights/*"),
            "flip": ("true", "weights/*"),
            "lr": ("0.2", "weights/*", "hparams/*/lr"),
            "sigma": ("0.1", "weights/*", "hparams/*/sigma"),
            "val_fraction": ("0.5", "weights/*", "metrics/*val/loss"),
            "validate_on_test": ("true", "weights/*", "metrics/*val/loss"),
            "data_dir": ("{other_images}", "weights/*", "metrics/*val/loss", "results/models/*/test_loss"),
            "seed": ("1", "weights/*"),
        },
    ),
    (
        "predict",
        "--run {priced} --data {houses}/test.csv",
        {
            "run": ("{other_priced}", "csv/predictions/prediction", "csv/predictions/upper"),
            "data": ("{other_houses}/test.csv", "csv/predictions/prediction", "csv/predictions/Id"),
            "export": ("torch", "results/exported"),
            "model": ("final", "csv/predictions/prediction", "results/models"),
            "coverage": ("0.5", "csv/predictions/lower", "csv/predictions/upper"),
        },
    ),
    (
        "rank_deficiency",
        "--max_epochs 1 --starts 2 --sigmas 0.5 --draws 2 --num_train 20",
        {
            "starts": ("3", "results/sgd/3/w", "printed/3"),
            "sigmas": ("0.3", "results/noise/1/*"),
            "draws": ("3", "results/noise/1/added", "results/noise/1/one_draw"),
            "num_inputs": ("4", "results/columns", "results/rank", "results/weights/*/w"),
            "noise": ("0.5", "results/weights/*/loss", "results/sgd/*/loss"),
            "num_train": ("30", "results/weights/*/loss", "results/noise/1/expected_added"),
            "batch_size": ("5", "results/sgd/*/w"),
            "lr": ("0.1", "results/sgd/*/w"),
            "seed": ("1", "results/weights/*/w", "results/noise/1/added", "results/sgd/*/w"),
        },
    ),
    ("vectorization", "--n 2 3", {"n": ("2 4", "results/n")}),
    (
        "weight_decay",
        "--max_epochs 1 --num_inputs 12 --num_train 10 --num_val 8 --path_members 3 --l1_lambdas 0.5",
        {
            "num_inputs": ("11", "results/fits/*loss", "results/path/*_loss", "results/path/w_norm"),
            "num_train": ("15", "results/fits/*loss", "results/path/*_loss", "results/path/w_norm"),
            "num_val": ("9", "results/fits/*val_loss", "results/path/val_loss"),
            "batch_size": ("2", "results/fits/*loss", "results/path/*_loss", "results/path/w_norm"),
            "lr": ("0.03", "results/fits/*loss", "results/path/*_loss", "results/path/w_norm"),
            "sigma": ("0.1", "results/fits/1/*loss", "results/fits/[256]/*loss", "results/path/*_loss"),
            "concise_sigma": ("0.5", "results/fits/[34]/*loss"),
            "concise_loss": ("half_squared", "results/fits/[34]/*loss"),
            "lambdas": ("0 2", "results/fits/2/*loss", "results/fits/4/*loss", "results/fits/[24]/lambda"),
            "l1_lambdas": ("0.4", "results/fits/[56]/*loss", "results/fits/[56]/lambda"),
            "path_members": ("4", "results/path/*"),
            "path_from": ("0.3", "results/path/*"),
            "path_to": ("3", "results/path/*"),
            "book": ("4.5", "printed/model", "printed/scratch", "printed/concise"),
            "seed": ("1", "results/fits/*loss", "results/path/*_loss", "results/path/w_norm"),
        },
    ),
]
OF_MODEL = {
    *("activation", "betas", "bias_lr", "clip", "dropout", "huber_threshold", "l1", "label_noise", "loss"),
    *("lr", "optimizer", "parametrization", "schedule", "standardize", "weight_decay"),
}
# Flags that change no output have tests of their own below.
SPECIAL = {
    "linear_regression": {"loader"},
    "vectorization": {"repeats"},
    # The data are those of linear_regression.
    "sgd": {"w", "b", "noise", "num_train", "num_val"},
    "initialization": {"depths"},
    "backpropagation_cost": {"seconds"},
    # Tests of these experiments change all their flags at once.
    "fairness": own_flags("fairness"),
    "missing_values": own_flags("missing_values"),
    "standardization": own_flags("standardization"),
    # The model is that of kaggle_house.
    "kaggle_table": OF_MODEL | {"hidden_sizes"},
    # What no result depends on has tests in tests/search, and so have samplers.
    "search_house": OF_MODEL
    | {"log_price", "features", "missing", "statistics", "drop_last"}
    | {"final_models", "pack", "workers", "storage", "study", "heartbeat", "sampler"},
}
EXPERIMENTS = sorted({path.stem for path in (ROOT / "experiments").glob("*.py")} - {"benchmark"})


def houses(folder: Path, first: int) -> Path:
    """Write every twelfth house, starting with a given one."""
    folder.mkdir()
    for kind in ("train", "test"):
        with gzip.open(BUNDLED / f"kaggle_house_pred_{kind}.csv.gz", "rt") as stream:
            header, *lines = stream.readlines()
        (folder / f"{kind}.csv").write_text("".join([header, *lines[first::12]]))
    return folder


def flats(folder: Path) -> Path:
    folder.mkdir()
    for prefix, seed in (("other_", 1), ("", 0)):
        for file in write_tables(folder, seed=seed):
            file.rename(folder / f"{prefix}{file.name}")
    return folder


def recipes(folder: Path, data_dir: Path) -> Path:
    folder.mkdir()
    recipe = (ROOT / "configs" / "kaggle_house_best.yaml").read_text()
    for name, width in (("one", 2), ("other", 3)):
        own = {"hidden_sizes": [width], "max_epochs": 1, "batch_size": 32, "data_dir": str(data_dir)}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({**yaml.safe_load(recipe), **own}))
    return folder


def spaces(folder: Path) -> Path:
    folder.mkdir()
    for name, low in (("one", 0.001), ("other", 0.0001)):
        lr = {"distribution": "log_uniform_values", "min": low, "max": 50 * low}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"parameters": {"lr": lr}}))
    return folder


def tables(folder: Path) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for prefix, shift in (("", 0.5), ("other_", 0.8)):
        for name, n, mean in (("source", 60, 0.0), ("target", 40, shift)):
            table = pd.DataFrame({"Id": range(n), "size": rng.normal(mean, 1, n), "age": rng.normal(0, 1, n)})
            if name == "source":
                table["price"] = (3 * table["size"] + rng.normal(0, 1, n)).round()
                table["cost"] = table["age"] + table["size"] ** 2
            table.to_csv(folder / f"{prefix}{name}.csv", index=False)
    return folder


class Runs:
    """Runs experiments in a folder; runs with the same flags are made once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.found: dict[tuple[str, str], dict[str, Any]] = {}
        self.places = {
            "images": write(folder / "images", (120, 4)),
            "more_images": write(folder / "more_images", (120, 40)),
            "other_images": write(folder / "other_images", (123, 5)),
            "other_more_images": write(folder / "other_more_images", (123, 47)),
            "houses": houses(folder / "houses", 0),
            "other_houses": houses(folder / "other_houses", 1),
            "tables": tables(folder / "tables"),
            "flats": flats(folder / "flats"),
            "recipes": recipes(folder / "recipes", folder / "houses"),
            "spaces": spaces(folder / "spaces"),
            "priced": write_house_run(folder / "priced", k=2),
            "other_priced": write_house_run(folder / "other_priced", k=2, lr=0.001),
        }

    def __call__(self, name: str, flags: str) -> dict[str, Any]:
        key = name, flags
        if key not in self.found:
            words = flags.format(**self.places).split()
            self.found[key] = run_outputs(name, self.folder / "runs" / str(len(self.found)), *words)
        return self.found[key]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "200")
        yield Runs(tmp_path_factory.mktemp("settings"))


def changes_all(before: dict[str, Any], after: dict[str, Any], patterns: Sequence[str]) -> None:
    """Check that all outputs that match a pattern differ, and that there are some."""
    for pattern in patterns:
        matching = [key for key in {**before, **after} if fnmatchcase(key, pattern)]
        assert matching, pattern
        same = [key for key in matching if key in before and key in after and before[key] == after[key]]
        assert not same, same


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_table_has_every_flag(name: str) -> None:
    tested = [flag for case, _, changes in CASES if case == name for flag in changes if flag != "seed"]
    assert sorted([*tested, *SPECIAL.get(name, ())]) == sorted(own_flags(name))


@pytest.mark.parametrize(
    ("name", "flags", "flag", "change"),
    [
        (name, flags, flag, change)
        for name, flags, changes in CASES
        for flag, change in changes.items()
        if flag != "seed"
    ],
    ids=[f"{name}-{flag}" for name, _, changes in CASES for flag in changes if flag != "seed"],
)
def test_a_flag_changes_its_outputs(
    name: str, flags: str, flag: str, change: tuple[str, ...], runs: Runs
) -> None:
    value, *patterns = change
    changes_all(runs(name, flags), runs(name, f"{flags} --{flag} {value}"), patterns)


SEEDS = {name: (flags, *changes["seed"]) for name, flags, changes in CASES if "seed" in changes}


@pytest.mark.parametrize("name", SEEDS)
def test_data_and_order_depend_on_the_seed_with_equal_initial_weights(
    name: str, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags, seed, *patterns = SEEDS[name]
    before = runs(name, flags)
    hold = torch.manual_seed
    # Initial weights come from the global generator; data, folds and orders have generators of their own.
    monkeypatch.setattr(torch, "manual_seed", lambda _: hold(0))
    after = runs(name, f"{flags} --seed {seed}")
    changes_all(before, after, patterns)


TINY_STEPS = "--lr 1e-30 --seed"


@pytest.mark.parametrize("name", ["backpropagation", "dropout", "kaggle_house", "linear_regression", "mlp"])
def test_initial_weights_depend_on_the_seed(name: str, runs: Runs) -> None:
    flags, seed, *_ = SEEDS[name]
    before, after = (runs(name, f"{flags} {TINY_STEPS} {each}") for each in (0, seed))
    changes_all(before, after, ["weights/*"])


@pytest.mark.parametrize("loader", ["framework", "scratch"])
def test_the_loader_flag_of_linear_regression_selects_the_loader(
    loader: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = []
    fit = Trainer.fit

    def recorded(trainer: Trainer, model: Any, data: Any) -> None:
        fit(trainer, model, data)
        used.append(type(trainer.train_dataloader))

    monkeypatch.setattr(Trainer, "fit", recorded)
    run_outputs("linear_regression", tmp_path / "run", "--max_epochs", "1", "--loader", loader)
    assert [issubclass(kind, DataLoader) for kind in used] == [loader == "framework"] * 2


def test_the_repeats_flag_of_vectorization_sets_the_number_of_timed_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Every run takes a second, so the least total time in seconds is the number of runs.
    least_times = []

    def blocked_autorange(timer: Timer, min_run_time: float) -> Measurement:
        least_times.append(min_run_time)
        return timer.timeit(1)

    monkeypatch.setattr(Timer, "timeit", lambda *_: Measurement(1, [1.0], TaskSpec("", "")))
    monkeypatch.setattr(Timer, "blocked_autorange", blocked_autorange)
    outputs = run_outputs("vectorization", tmp_path / "run", "--n", "2", "3", "--repeats", "7")
    assert least_times == [7.0] * 4
    assert outputs["results/loop_seconds"] == outputs["results/vectorized_seconds"] == [1.0, 1.0]


@pytest.mark.figures
def test_initialization_draws_the_variances_at_all_depths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: set[tuple[float, ...]] = set()

    def savefig(figure: Figure, path: Path) -> None:
        drawn.update(tuple(line.get_xdata()) for panel in figure.axes for line in panel.lines)
        Path(path).write_bytes(b"")

    monkeypatch.setattr(Figure, "savefig", savefig)
    monkeypatch.setattr(style, "default_style", nullcontext)
    flags = next(flags for name, flags, _ in CASES if name == "initialization")
    images = write(tmp_path / "data", (120, 12))
    run_outputs(
        "initialization", tmp_path / "run", *flags.format(images=images).split(), "--depths", "1", "4", "7"
    )
    # The depth that is trained, 2, is drawn too. The deepest network is drawn layer by layer.
    assert {(1, 2, 4, 7), (1, 2, 3, 4, 5, 6, 7)} <= drawn
