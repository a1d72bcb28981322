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
    "fairness": [
        (["--minority", "1"], "minority must be between 0 and 1, not 1"),
        (["--start", "0"], "start must be between 0 and 1, not 0"),
        (["--draws", "1000000000000"], "draws must be at most 10,000"),
        (["--false_negative", "0"], "false_negative must be positive, not 0"),
        (["--focus", "-1"], "focus must not be negative; it is -1"),
        (["--group_by", "Town"], "lacks the column 'Town' of the groups"),
        (["--group_by", "Alley"], "Alley is missing; every training row needs its group"),
    ],
    "kaggle_house": [
        (["--missing", "zero"], "missing: "),
        (["--features", "ames", "--missing", "mean"], "missing mean has no effect: the features ames"),
    ],
    "missing_values": [
        (["--draws", "1000000000000"], "draws must be at most 10,000"),
        (["--columns"], "columns must name at least one column"),
        (
            ["--columns", "LotArea", "Garden"],
            "columns: 'Garden' is no column of numbers; these are MSSubClass",
        ),
        (
            ["--columns", "LotFrontage"],
            "259 houses have no LotFrontage; the first of columns must be complete",
        ),
        (["--share", "0.5"], "strength must be at most 1 with the share 0.5; it is 2.0"),
        (["--share", "1e-9"], "share 1e-09 of 1460 values leaves too few of one kind"),
        (["--draws", "0"], "draws must be positive, not 0"),
    ],
    "standardization": [
        (["--lrs"], "lrs must name at least one learning rate"),
        (["--lrs", "1", "0"], "lrs[1] must be positive, not 0"),
        (["--k", "1"], "k must be from 2 to the number of training rows, 1460; it is 1"),
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
        (["--num_seeds", "-1"], "num_seeds must not be negative; it is -1"),
        (["--num_seeds", "1000000000000"], "num_seeds must be at most 10,000"),
        (["--noise", "salt"], "noise: "),
        (["--noise", "gaussian", "--dropouts", "0", "1"], "from 0 to below 1 with this noise, not 1"),
    ],
    "layer_rates": [
        (["--num_layers", "1"], "num_layers must be at least 2, a hidden one and the output's, not 1"),
        (["--width", "0"], "width must be positive, not 0"),
        (["--factor", "0"], "factor must be positive, not 0"),
        (["--factor", "1e300"], "factor 1e+300 gives gradients beyond single precision"),
        (["--num_train", "0"], "num_train must be positive, not 0"),
        (["--sgd_lrs"], "sgd_lrs must name at least one learning rate, and each once, not []"),
        (["--lars_lrs", "1", "1.0"], "lars_lrs must name at least one learning rate, and each once"),
        (["--lars_lrs", "-1"], "lr must be positive, not -1"),
    ],
    "mlp_settings": [
        (["--hidden_units", "0"], "hidden_sizes must name at least one positive width"),
        (["--hidden_layers", "0"], "hidden_sizes must name at least one positive width"),
        (["--lrs", "0"], "lr must be positive, not 0"),
        (["--activations", "step"], "activations: "),
        (["--initializations", "kaiming", "kaiming"], "each value of the initialization must be named once"),
        (["--num_seeds", "0"], "num_seeds must be positive, not 0"),
        (["--num_seeds", "1000000000000"], "num_seeds must be at most 10,000"),
        (["--num_train", "-1"], "num_train must be positive, not -1"),
    ],
    "data_loading": [
        (["--num_rows", "60"], "there must be two batches and a window of rows, and a block in a window"),
        (["--window_rows", "16"], "num_rows 20010, window_rows 16, block_rows 32: there must be two batches"),
        (["--block_rows", "0"], "block_rows must be positive, not 0"),
        (["--num_inputs", "0"], "num_inputs must be positive, not 0"),
        (["--noise", "-1"], "noise must not be negative; it is -1"),
        (["--lr", "0"], "lr must be positive, not 0"),
        (["--generated_rows", "0"], "generated_rows must be positive, not 0"),
        (["--generated_epochs", "-1"], "generated_epochs must be positive, not -1"),
    ],
    "second_derivatives": [
        (
            ["--dims", "3", "30", "--num_rows", "20"],
            "dims must name numbers from 1 to num_rows, 20, each once",
        ),
        (["--dims"], "dims must name numbers from 1 to num_rows, 2000, each once, not []"),
        (["--dims", "3", "3"], "each once, not [3, 3]"),
        (["--steps", "0"], "steps must be positive, not 0"),
        (["--damping", "0"], "damping must be positive, not 0"),
        (["--num_rows", "1000000000000"], "the largest setting is num_rows 1000000000000"),
        (["--noise", "1e300"], "y[0] must be a finite number, not "),
        (["--noise", "-1"], "noise must not be negative; it is -1"),
        (["--max_epochs", "3"], "--max_epochs 3 has no effect: no Trainer is used"),
    ],
    "sgd": [
        (["--devices", "2", "--accelerator", "cpu"], "rows of a summed loss; take --devices 1"),
        (["--lrs"], "lrs must name each rate once, and at least one, not []"),
        (["--lrs", "0.1", "0.1"], "lrs must name each rate once"),
        (["--lrs", "0.1", "0"], "lrs[1] must be positive, not 0"),
        (["--lr", "-1"], "lr must be positive, not -1"),
        (["--order_lr", "0"], "order_lr must be positive, not 0"),
        (["--order_noise", "-1"], "order_noise must not be negative; it is -1"),
        (["--order_noise", "1e300"], "y[0] must be a finite number, not "),
        (["--outlier", ".inf"], "outlier must be a finite number, not inf"),
        (["--num_train", "4"], "num_train must be at least 5, for the fifth target"),
        (["--num_train", "6", "--w", "1", "1", "1", "1", "1", "1"], "rank"),
        (["--num_val", "0"], "num_val at least 1"),
        (["--batch_size", "0"], "batch_size must be positive, not 0"),
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
    "exponential_noise": [
        (["--lrs"], "lrs must name each learning rate once, and at least one: []"),
        (["--lrs", "0.1", "0.1"], "lrs must name each learning rate once"),
        (["--lrs", "0"], "lrs must be positive, not 0"),
        (["--location", ".inf"], "location must be a finite number, not inf"),
    ],
    "physical_laws": [
        (["--factors"], "factors must name at least one factor"),
        (["--factors", "0"], "factors must be positive, not 0"),
        (["--lr", "0"], "lr must be positive, not 0"),
        (["--resistance", "0"], "resistance must be positive, not 0"),
        (["--temperature", "-3"], "temperature must be positive, not -3"),
        (["--density_noise", "-1"], "density_noise must not be negative"),
    ],
    "poisson_regression": [
        (["--draws", "1000000000000"], "draws must be at most 10,000"),
        (["--draws", "0"], "draws must be positive, not 0"),
        (["--num_val", "0"], "num_val must be positive, not 0"),
        (["--b", "50"], "it must be below 1e7"),
        (["--w", ".nan"], "w[0] must be a finite number, not nan"),
        (["--lr", "0"], "lr must be positive, not 0"),
    ],
    "rank_deficiency": [
        (["--starts", "0"], "starts must be positive, not 0"),
        (["--starts", "1000000000000"], "starts must be at most 10,000"),
        (["--num_train", "2"], "num_train must be at least 3, a row for each feature, not 2"),
        (["--sigmas", "1e300"], "the square of sigmas times num_train must be positive and finite"),
        (["--draws", "0"], "draws must be positive, not 0"),
        (["--sigmas"], "sigmas must name at least one standard deviation"),
        (["--sigmas", "0", "1"], "sigmas must be positive, not 0"),
        (["--sigmas", "1e-12"], "sigmas must be larger: with noise of 1e-12, X^T X is still singular"),
        (["--num_inputs", "1"], "num_inputs must be at least 2 for a feature that depends on others, not 1"),
        (["--noise", "-1"], "noise must not be negative; it is -1"),
        (["--lr", "0"], "lr must be positive, not 0"),
    ],
    "exact_polynomials": [
        (["--degrees", "3", "3"], "degrees must name each degree once"),
        (["--degrees"], "degrees must name each degree once, not []"),
        (["--max_degree", "-1"], "max_degree must not be negative; it is -1"),
        (["--num_val", "0"], "num_val must be positive, not 0"),
        (["--max_epochs", "3"], "--max_epochs 3 has no effect: nothing is trained"),
    ],
    "polynomial_features": [
        (["--lrs", "0.1", "0.01"], "lrs must be learning rates that grow"),
        (["--lrs", "0.1234567", "0.1234568"], "lrs must differ in their first six digits"),
        (
            ["--degree", "100"],
            "powers of x up to degree 100 are too large for torch.float32",
        ),
    ],
    "generalization": [
        (["--noise", "1e300"], "the square of noise must be positive and finite, not inf"),
        (["--noise", "1e-200"], "the square of noise must be positive, not 0.0"),
        (["--draws", "1"], "draws must be at least 2, for a standard error, not 1"),
        (["--ks", "31"], "ks must differ and be from 2 to num_rows, 30, not [31]"),
        (["--num_rows", "20", "--ks", "2"], "num_rows is too small: some fits have 10 rows for 10 features"),
        (["--your_rows", "200"], "your_rows is too small: some fits have 75 rows for 100 features"),
        (["--noise", "0"], "noise must be positive, not 0"),
    ],
    "nonlinearity": [
        (["--hidden_sizes"], "hidden_sizes must name at least one positive width, not []"),
        (["--num_rows", "2"], "num_rows must be at least 3, not 2"),
    ],
    "backpropagation_cost": [
        (["--widths", "4", "2"], "widths must be positive and grow, not [4, 2]"),
        (["--batch_size", "4", "--parts", "8"], "parts must be at most the batch size, 4, not 8"),
        (["--seconds", "0"], "seconds must be positive, not 0"),
    ],
    "matrix_products": [
        (["--num_matrices", "3000"], "choose a smaller num_matrices"),
        (["--num_matrices", "1000000000000"], "the largest setting is num_matrices 1000000000000"),
        (["--matrix_size", "0"], "matrix_size must be positive, not 0"),
    ],
    "symmetry": [
        (["--lr", "-1"], "lr must be positive, not -1"),
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
        (["--lambda", "3"], "--lambda is no flag of this experiment; did you mean --lambdas or"),
        (["--num_epochs", "3"], "--num_epochs is no flag of this experiment; did you mean --max_epochs?"),
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


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        ("physical_laws", "--lr 1e38 --num_train 10", "left the range of numbers; a lower lr"),
        ("poisson_regression", "--lr 1e38 --draws 2 --num_train 50", "is not finite in the end; a lower lr"),
        ("exponential_noise", "--lrs 1e300 --num_train 5", "lrs 1e+300 is too large for single precision"),
    ],
)
def test_a_rate_that_is_found_too_high_in_the_fit_is_an_error_of_one_line(
    name: str, flags: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = f"--max_epochs 1 --run_dir {tmp_path / 'run'} --enable_progress_bar false"
    with pytest.raises(SystemExit) as stop:
        run_experiment(load_experiment(name).main, f"{flags} {more}".split())
    assert stop.value.code == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert len(error.splitlines()) == 1
