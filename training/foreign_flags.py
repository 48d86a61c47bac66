"""Maps flags of other DLRM trainers to ours, for the hint after an unknown flag.

docs/migrating.md lists the differences in meaning. Names are spelled with underscores here;
`dlrm_s_pytorch.py` of facebookresearch/dlrm uses dashes.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence

# Flags with a counterpart, by ours.
_OURS = {
    "ablation=frozen_embeddings": ("freeze_embeddings",),
    "amp": ("use_mixed_precision",),
    "auc=binned": ("auc_thresholds",),
    "auc_threshold": ("mlperf_auc_threshold",),
    "batch_sizes": ("inference_benchmark_batch_sizes",),
    "bottom_mlp": (
        "arch_mlp_bot", "bottom_mlp_dims", "bottom_mlp_sizes", "dense_arch_layer_sizes",
        "model_config",
    ),
    "checkpoint_dir": ("output_dir", "save_checkpoint_path", "save_model"),
    "column_split": ("columnwise_split",),
    "cross_layers": ("dcn_num_layers",),
    "cross_rank": ("dcn_low_rank_dim",),
    "custom_interact": ("dot_interaction",),
    "data_dir": (
        "synthetic_multi_hot_criteo_path",
        "dataset", "dataset_path", "in_memory_binary_criteo_path", "processed_data_file",
        "raw_data_file",
    ),
    "data_layout": ("dataset_type",),
    "decay_start_step": ("decay_start", "lr_decay_start", "lr_decay_start_step"),
    "decay_steps": ("lr_decay_steps", "lr_num_decay_steps"),
    "early_stop": (
        "limit_train_batches", "max_iter", "max_steps", "num_batches",
        "synthetic_dataset_num_entries", "synthetic_dataset_train_batches",
    ),
    "embedding_dim": ("arch_sparse_feature_size", "ev_size"),
    "embedding_optimizer=adagrad": ("adagrad",),
    "embedding_optimizer_options=epsilon=1e-8": ("eps",),
    "end_lr": ("decay_end_lr",),
    "epochs": ("nepochs",),
    "eval_interval": ("test_freq", "validation_freq_within_epoch"),
    "export_dir": ("saved_model_output_path",),
    "global_batch_size": ("batch_size", "batchsize", "mini_batch_size"),
    "interaction": ("arch_interaction_op", "interaction_op", "interaction_type"),
    "loss_scale": ("scaler",),
    "lr": ("learning_rate",),
    "mlperf_log": ("mlperf_logging",),
    "mode=evaluate": ("inference_only",),
    "mode=plan": ("print_sharding_plan",),
    "embedding_optimizer=adam": ("adam_embedding_optimizer",),
    "optimizer=adam": ("adam_mlp_optimizer",),
    "parallel_reads": ("num_workers",),
    "print_interval": ("display_interval", "print_freq"),
    "profile_steps=100-110": ("enable_profiling", "profiler_start_step"),
    "restore": ("load_checkpoint_path", "load_model", "restore_checkpoint_path"),
    "run_dir": ("log_path", "tensor_board_filename"),
    "seed": ("numpy_rand_seed",),
    "shuffle_seed=1": (
        "data_randomize", "mlperf_bin_shuffle", "shuffle", "shuffle_batch_order", "shuffle_batches",
    ),
    "tf32": ("allow_tf32", "enable_tf32_compute"),
    "top_mlp": ("arch_mlp_top", "over_arch_layer_sizes", "top_mlp_dims", "top_mlp_sizes"),
    "use_synthetic_dataset": ("data_generation",),
    "hotness": ("num_indices_per_lookup",),
    "multi_hot": ("multi_hot_sizes",),
    "vocab_sizes": (
        "arch_embedding_size", "num_embeddings_per_feature", "synthetic_dataset_cardinalities",
        "synthetic_dataset_table_sizes",
    ),
    "warmup_steps": ("lr_num_warmup_steps", "lr_warmup_steps"),
}  # fmt: skip
NAMES = {name: ours for ours, names in _OURS.items() for name in names}

# Remarks on flags in NAMES.
_NOTES = {
    "arch_embedding_size": "comma-separated; only for random data and plans",
    "arch_mlp_bot": "comma-separated, without the number of dense features",
    "arch_mlp_top": "comma-separated",
    "multi_hot_sizes": "for one-hot data; multi-hot data has its own in metadata.json",
    "num_indices_per_lookup": "one number for each table; only for random data and plans",
    "interaction_op": "cuda_dot is --custom_interact",
    "interaction_type": "original is dot, dcn is cross",
    "processed_data_file": "a folder written by preprocess.py or split_bin.py",
    "raw_data_file": "a folder; preprocess.py converts raw days to one",
}

# Flags without a counterpart, by the reason.
_WITHOUT = {
    "horovodrun starts one rank per GPU": (
        "dist_backend", "local_rank", "backend", "num_gpus_per_node",
    ),
    "TensorFlow uses the GPUs that it finds": ("use_gpu", "base_device", "cpu"),
    "the test data is read in batches of --global_batch_size": (
        "test_batch_size", "test_mini_batch_size", "test_num_workers", "valid_batch_size",
        "batchsize_eval",
    ),
    "all test data is scored": ("limit_val_batches", "limit_test_batches", "max_eval_batches"),
    "the loss is the binary cross-entropy of labels 0 and 1": (
        "loss_function", "loss_weights", "loss_threshold", "round_targets",
        "activation_function",
    ),
    "--interaction selects the interaction, which has no branches": (
        "arch_interaction_itself", "interaction_branch1_layer_sizes",
        "interaction_branch2_layer_sizes",
    ),
    "the vectors of a table's ids are added or averaged, without weights": ("weighted_pooling",),
    "--hotness fixes the ids per sample of random data": ("num_indices_per_lookup_fixed",),
    "python3 -m dataset.multihot writes multi-hot data of either distribution": (
        "multi_hot_distribution_type",
    ),
    "python3 -m dataset.validate counts the ids that occur": ("collect_multi_hot_freqs_stats",),
    "every table has --embedding_dim columns": (
        "md_flag", "md_threshold", "md_temperature", "md_round_dims", "qr_flag", "qr_threshold",
        "qr_operation", "qr_collisions",
    ),
    "the files in --data_dir determine layout and sizes": (
        "data_set", "dataset_name", "mlperf_bin_loader", "num_numerical_features", "feature_spec",
        "num_embeddings", "synthetic_dataset_use_feature_spec",
        "synthetic_dataset_numerical_features", "synthetic_dataset_num_numerical_features",
        "synthetic_dataset_valid_batches",
    ),
    "files are read during training, --prefetch batches ahead": (
        "memory_map", "mmap_mode", "pin_memory", "dataset_multiprocessing",
    ),
    "python3 -m dataset.synthetic writes random data": (
        "data_size", "data_trace_file", "data_trace_enable_padding", "rand_data_dist",
        "rand_data_min", "rand_data_max", "rand_data_mu", "rand_data_sigma",
    ),
    "training uses all samples, in file order or as --shuffle_seed orders the batches": (
        "data_sub_sample_rate", "undersampling_rate", "shuffle_training_set", "dataset_subset",
        "drop_last_training_batch",
    ),
    "an id outside its table is an error; preprocess.py --max_table_rows limits tables": (
        "max_ind_range", "max_table_size", "hash_indices",
    ),
    "times are always printed and recorded in the journal": (
        "print_time", "print_wall_time", "print_precision", "print_lr", "gen_loss_summary",
        "debug_mode", "plot_compute_graph",
    ),
    "--auc_threshold stops a run at an AUC": ("mlperf_acc_threshold",),
    "every step updates the weights": ("mlperf_grad_accum_iter",),
    "the MLPs are always data-parallel": (
        "sync_dense_params", "data_parallel_bottom_mlp", "bottom_features_ordered",
    ),
    "--mode=export writes a float32 SavedModel": (
        "save_onnx", "quantize_mlp_with_bit", "quantize_emb_with_bit", "fp16",
        "save_input_signature", "saved_model_input_path",
    ),
    "the machine and the data determine the kernels": (
        "optimized_mlp", "embedding_type", "gpu_embedding_type", "cpu_embedding_type",
        "cuda_graphs", "disable_algorithm_search", "tf_gpu_memory_limit_gb", "auc_device",
        "run_eagerly", "dummy_model", "profiled_rank",
    ),
    "warm-up starts at 0, and the schedule does not change during a run": (
        "warmup_factor", "change_lr", "lr_change_point", "lr_after_change_point",
    ),
    "timings exclude warm-up": ("benchmark_warmup_steps", "inference_benchmark_steps"),
    "--evals_per_epoch sets the number of evaluations": (
        "test_after", "evaluate_on_epoch_end", "evaluate_on_training_end", "validation_auroc",
    ),
    "the MLPs are always trained": ("freeze_mlps",),
    "hvd_wrapper.sh sets the number of threads": (
        "inter_op_parallelism", "intra_op_parallelism",
    ),
}  # fmt: skip
WITHOUT = {name: why for why, names in _WITHOUT.items() for name in names}


def advice(name: str, known: Sequence[str], booleans: Sequence[str]) -> str:
    """Returns the hint that follows "unknown flag --NAME" in an error, or "".

    Args:
        name: the unknown flag as the user wrote it, without leading dashes.
        known: names of this project's flags.
        booleans: the names in `known` that take no value.
    """
    plain = name.replace("-", "_").lower()
    if plain.removeprefix("no_") in booleans and plain.startswith("no_"):
        return f"; did you mean --no{plain.removeprefix('no_')}?"
    if plain in known:
        return f"; did you mean --{plain}?"
    if plain in NAMES:
        note = f" ({_NOTES[plain]})" if plain in _NOTES else ""
        return f"; did you mean --{NAMES[plain]}{note}?"
    if plain in WITHOUT:
        return f", which another trainer has: leave it out; {WITHOUT[plain]}"
    near = difflib.get_close_matches(plain, known, n=1, cutoff=0.7)
    return f"; did you mean --{near[0]}?" if near else ""
