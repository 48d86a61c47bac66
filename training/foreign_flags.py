"""What flags of other DLRM trainers are called here, for the hint at an unknown flag.

docs/migrating.md has the differences in meaning.
"""

NAMES = {
    "adagrad": "embedding_optimizer=adagrad",
    "batch_size": "global_batch_size",
    "bottom_mlp_sizes": "bottom_mlp",
    "dataset": "data_dir",
    "dataset_type": "data_layout",
    "decay_end_lr": "end_lr",
    "dense_arch_layer_sizes": "bottom_mlp",
    "in_memory_binary_criteo_path": "data_dir",
    "inference_benchmark_batch_sizes": "batch_sizes",
    "interaction_op": "custom_interact",
    "learning_rate": "lr",
    "limit_train_batches": "early_stop",
    "load_checkpoint_path": "restore",
    "log_path": "run_dir",
    "lr_decay_start": "decay_start_step",
    "lr_decay_steps": "decay_steps",
    "lr_warmup_steps": "warmup_steps",
    "max_steps": "early_stop",
    "model_config": "bottom_mlp",
    "num_embeddings_per_feature": "vocab_sizes",
    "output_dir": "checkpoint_dir",
    "over_arch_layer_sizes": "top_mlp",
    "print_freq": "print_interval",
    "print_sharding_plan": "mode=plan",
    "save_checkpoint_path": "checkpoint_dir",
    "shuffle_batch_order": "shuffle_seed=1",
    "shuffle_batches": "shuffle_seed=1",
    "synthetic_dataset_num_entries": "early_stop",
    "synthetic_dataset_table_sizes": "vocab_sizes",
    "test_freq": "eval_interval",
    "top_mlp_sizes": "top_mlp",
    "validation_freq_within_epoch": "eval_interval",
}
