"""Bad flags are an error of one line, before any training."""

from pathlib import Path

import pytest

from d2l_lightning.runs.cli import run_experiment
from tests.conftest import load_experiment

CASES = {
    "correct_shift": [
        (
            ["--source", "a.csv", "--target", "b.csv", "--label", "price", "--max_epochs", "3"],
            "--max_epochs 3 has no effect: --steps says how long to train",
        ),
    ],
    "concept_shift": [
        (["--max_epochs", "3"], "--max_epochs 3 has no effect: there is one pass over the stream"),
    ],
    "covariate_shift": [
        (["--trials", "0", "--trial_rows", "-5"], "trial_rows must be positive, not -5"),
    ],
    "house_comparison": [
        (["--methods"], "methods must name at least one method"),
        (["--methods", "lasso", "lasso"], "each one once"),
        (["--methods", "book", "xgboost"], "methods: "),
        (
            ["--methods", "lasso", "--k", "1"],
            "k must be from 2 to the number of training rows, 1460; it is 1",
        ),
    ],
    "mlp": [
        (["--hidden_sizes", "1000000000000"], "the largest setting is hidden_sizes 1000000000000"),
    ],
    "dropout": [
        (["--weight_decay", "-1"], "weight_decay must not be negative; it is -1"),
    ],
    "linear_regression": [
        (["--num_train", "1000000000000000"], "the largest setting is num_train 1000000000000000"),
        (["--batch_size", "99999999999999999999"], "batch_size must be less than 2^63"),
        (["--num_train", "0"], "num_train must be positive, not 0"),
        (["--num_val", "-1"], "num_val must not be negative; it is -1"),
        (["--batch_size", "0"], "batch_size must be positive, not 0"),
        (["--lr", "0"], "lr must be positive, not 0"),
        (["--lr", "-0.1"], "lr must be positive, not -0.1"),
        (["--lr", ".nan"], "lr must be positive, not nan"),
        (["--lr", "fast"], "lr: Expected"),
        (["--noise", "-1"], "noise must not be negative; it is -1"),
        (["--sigma", "-1"], "sigma must not be negative; it is -1"),
        (["--w", "2", ".nan"], "w[1] must be a finite number, not nan"),
        (["--w"], "w must hold one weight for each feature"),
        (["--b", ".inf"], "b must be a finite number, not inf"),
        (["--loss", "cubed"], "loss: "),
        (["--loader", "own"], "loader: "),
        (["--huber_threshold", "0"], "huber_threshold must be positive"),
        (["--num_train", "2"], "the design matrix X has rank 2 and 3 columns"),
        (["--max_epox", "2"], "max_epox"),
    ],
    "polynomial_regression": [
        (["--degrees", "-1", "--epochs", "1"], "degrees must not be negative; it is -1"),
        (["--degrees", "3", "--epochs", "1", "2"], "degrees and epochs must have the same length"),
        (["--degrees", "3", "3", "--epochs", "1", "2"], "each degree once"),
        (["--degrees", "--epochs"], "at least one"),
        (["--degrees", "3", "--epochs", "0"], "epochs must be positive, not 0"),
        (["--max_degree", "-1"], "max_degree must not be negative; it is -1"),
        (["--k", "1"], "k must be from 2 to the number of training rows, 100; it is 1"),
        (["--num_val", "0"], "num_val must be positive, not 0"),
        (["--noise", "-0.5"], "noise must not be negative"),
        (["--lr", "0"], "lr must be positive"),
        (["--w", ".nan"], "w[0] must be a finite number"),
    ],
    "search_house": [
        (["--trials", "0"], "--trials must be positive, not 0"),
        (["--pack", "0"], "--pack must be positive, not 0"),
        (["--workers", "0"], "--workers must be positive, not 0"),
        (["--heartbeat", "0"], "--heartbeat must be positive, not 0"),
        (["--first_rung", "0"], "--first_rung must be positive, not 0"),
        (["--reduction", "1"], "--reduction must be at least 2, not 1"),
        (["--confirm", "-1"], "--confirm must not be negative; it is -1"),
        (["--sampler", "best"], "sampler: "),
        (["--sampler", "grid"], "the search space is not finite: lr, weight_decay, dropout"),
        (["--k", "1"], "search_house: k must be from 2 to the number of training rows, 1460; it is 1"),
        (["--final_models", "0"], "final_models must be positive, not 0"),
        (["--devices", "4096"], "more than the CPUs of this machine"),
        (["--storage", "sqlite://"], "cannot be used (it has no file)"),
        (["--folds", "group:Nowhere"], "lacks the column 'Nowhere' of the groups"),
        (["--max_steps", "5"], "--max_steps 5 has no effect"),
        (["--max_epochs", "null"], "a search needs --max_epochs"),
        (["--space", "nowhere.yaml"], "nowhere.yaml"),
        (["--storage", "postgresql+psycopg://u:secret@127.0.0.1:1/x"], "cannot be reached"),
        (["--storage", "mysql+nothing://u:secret@127.0.0.1:1/x"], "cannot be used"),
        (["--storage", "nonsense"], "cannot be used"),
    ],
    "weight_decay": [
        (["--path_members", "0", "--path_from", "-1"], "path_from must be positive"),
        (["--lambdas", "--concise_sigma", "-1"], "concise_sigma must not be negative; it is -1"),
        (["--lambdas", "0", "-3"], "lambdas must not be negative; it is -3"),
        (["--l1_lambdas", "-1"], "l1_lambdas must not be negative; it is -1"),
        (["--lambdas", "3", "3"], "lambdas must name each constant once"),
        (["--num_inputs", "0"], "num_inputs must be positive, not 0"),
        (["--lr", "-1"], "lr must be positive, not -1"),
        (["--path_from", "0"], "path_from must be positive"),
        (["--path_from", "5", "--path_to", "1"], "path_from below path_to"),
        (["--path_members", "-1"], "path_members must not be negative"),
        (["--path_members", "1"], "at least 2 members"),
        (["--concise_sigma", "-1"], "concise_sigma must not be negative; it is -1"),
        (["--limit_val_batches", "0"], "leaves nothing to evaluate on"),
        (["--book", "9.9"], "book: "),
        (["--lambdas", "--l1_lambdas", "--path_members", "0"], "there is nothing to fit"),
    ],
    "normal_distribution": [
        (["--stds", "1e300", "1", "1"], "std must have a square that double precision holds, not 1e+300"),
        (["--stds", "1e-300", "1", "1"], "std must have a square"),
        (["--noise", "1e-300"], "noise must have a square"),
        (["--stds", "1", "0", "1"], "std must be positive, not 0"),
        (["--means", "1"], "means and stds must have the same length"),
        (["--means", "0", "0", ".nan"], "means[2] must be a finite number, not nan"),
        (["--noise", "0"], "noise must be positive"),
        (["--noise", "-1"], "noise must not be negative"),
    ],
    "vectorization": [
        (["--n", "10", "1000000000000000"], "more memory than there is (12,000,000.0 GB in one piece)"),
        (["--n", "0"], "n must be positive, not 0"),
        (["--n"], "n must name at least one length"),
        (["--n", "5", "5"], "each length once"),
        (["--repeats", "0"], "repeats must be positive, not 0"),
    ],
}


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [(name, *case) for name, cases in CASES.items() for case in cases],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_bad_flag_is_an_error_of_one_line_and_nothing_is_written(
    name: str,
    flags: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        run_experiment(load_experiment(name).main, flags)
    assert stop.value.code == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert len(error.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
