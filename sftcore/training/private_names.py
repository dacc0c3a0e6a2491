"""The private names of other packages that training relies on; a run checks them when it starts."""

from __future__ import annotations

import accelerate
import transformers
from torch.distributed import distributed_c10d

from sftcore.runtime.private_api import PrivateNames, check_private_names

TRAINER = PrivateNames(
    transformers.Trainer,
    calls={
        "_determine_best_metric": ("metrics", "trial"),
        "_evaluate": ("trial", "ignore_keys_for_eval"),
        "_save_scaler": ("output_dir",),
        "save_model": ("output_dir", "_internal_call"),
    },
    overrides={
        "_finalize_training": ("trial", "num_train_samples", "start_time"),
        "_get_eval_sampler": ("eval_dataset",),
        "_get_grad_norm": ("model", "grad_norm"),
        "_get_train_sampler": ("train_dataset",),
        "_issue_warnings_after_load": ("load_result",),
        "_load_best_model": (),
        "_load_from_checkpoint": ("resume_from_checkpoint", "model"),
        "_load_optimizer_and_scheduler": ("checkpoint",),
        "_load_rng_state": ("checkpoint",),
        "_maybe_log_save_evaluate": ("tr_loss", "grad_norm", "model", "trial", "epoch"),
        "_prepare_for_training": (),
        "_run_epoch": (),
        "_save": ("output_dir", "state_dict"),
        "_save_checkpoint": ("model", "trial"),
        "_save_optimizer_and_scheduler": ("output_dir",),
        "compute_loss": ("model", "inputs"),
        "create_optimizer": (),
        "evaluation_loop": (),
        "get_batch_samples": ("epoch_iterator", "num_batches", "device"),
        "log": ("logs",),
        "prediction_step": ("model", "inputs"),
        "training_step": ("model", "inputs"),
    },
    attributes=("_globalstep_last_logged", "_initial_global_step", "_total_loss_scalar", "_tr_loss"),
)
"""Names of the Trainer that ours overrides or uses, and public methods that it must still call."""


def check_private_names_of_libraries() -> None:
    """Check that the installed transformers, accelerate and torch have them all.

    Raises:
        SftError: names are missing or changed.
    """
    check_private_names(
        "transformers",
        TRAINER,
        PrivateNames(transformers.PreTrainedModel, attributes=("_tied_weights_keys",)),
        PrivateNames(transformers.TrainingArguments, attributes=("_n_gpu",)),
        PrivateNames(transformers.PretrainedConfig, attributes=("_attn_implementation",)),
    )
    check_private_names("accelerate", PrivateNames(accelerate.Accelerator, attributes=("scaler",)))
    check_private_names("torch", PrivateNames(distributed_c10d, calls={"_get_default_store": ()}))
