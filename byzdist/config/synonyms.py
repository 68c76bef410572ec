"""Words that other trainers and papers use for byzdist's keys and commands. They do not work; their error names the right word."""

from byzdist.words import squeeze

_KEYS = {
    "name": "title run_name experiment experiment_name exp_name",
    "seed": "random_seed random_state rng_seed manual_seed",
    "rounds": "epochs steps iterations iters n_iter max_iter num_steps num_rounds n_rounds max_rounds nb_steps global_rounds T",
    "device": "gpu gpus cuda accelerator",
    "dtype": "precision float_type",
    "threads": "n_threads num_threads omp_num_threads cpus",
    "clients.count": "n n_clients num_clients number_of_clients total_clients nb_clients n_nodes num_nodes participants",
    "clients.byzantine": "byz n_byz n_byzantine num_byz num_byzantine nb_byzantine adversaries n_adversaries malicious n_malicious "
    "attackers n_attackers",
    "clients.availability": "dropout_rate client_dropout dropouts",
    "aggregation.rule": "aggregator agg agg_rule gar defense defence robust_aggregator",
    "aggregation.pre": "pre_aggregation pre_aggregators preagg",
    "aggregation.declared_byzantine": "f delta tolerated n_tolerated max_byzantine assumed_byzantine",
    "method.name": "optimizer optimiser algorithm algo solver",
    "method.step_size": "lr learning_rate eta gamma step stepsize",
    "method.batch_size": "batch bs b minibatch mini_batch mini_batch_size local_batch_size",
    "method.cohort": "C cohort_size clients_per_round sampled_clients num_sampled sample_size participation participation_rate "
    "fraction fraction_fit sample_rate",
    "method.full_cohort": "C_hat full_cohort_size",
    "method.clip": "lambda clipping clip_level clip_factor clip_threshold clip_norm max_norm max_grad_norm gradient_clipping",
    "method.weight_decay": "wd",
    "method.p": "prob probability full_probability p_full",
    "method.momentum": "beta momentum_beta client_momentum",
    "method.full_batch": "b_prime large_batch",
    "model.name": "net network arch architecture model_name",
    "model.l2": "l2_reg reg regularization regularizer l2_penalty",
    "model.hidden": "hidden_sizes hidden_layers layers hidden_units",
    "data.name": "dataset data_set dataset_name",
    "data.path": "data_path data_dir data_root root file train_file",
    "data.split": "partition partitioning partitioner heterogeneity noniid data_distribution distribution",
    "data.split.alpha": "dirichlet_alpha distribution_parameter concentration",
    "data.workers": "data.num_workers data.n_workers prefetch prefetch_factor",
    "compression.name": "compressor quantization sparsification",
    "compression.ratio": "k sparsity compression_ratio keep_ratio",
    "attack.name": "adversary attack_name attack_type",
    "transport.name": "backend communication protocol",
    "transport.deadline": "timeout round_timeout reply_timeout",
    "evaluate.every": "eval_every eval_interval evaluation_interval evaluation_delta test_every eval_freq log_every log_interval",
    "evaluate.samples": "eval_samples eval_size",
    "checkpoint.every": "save_every checkpoint_interval checkpoint_every save_interval save_freq",
    "--workers": "workers n_workers num_workers nproc processes n_processes nproc_per_node",
    "--out": "out outdir output output_dir log_dir save_dir results_dir folder dir run_dir",
    "--resume": "resume resume_from restore continue",
    "--max-restarts": "max_restarts restarts",
}
_COMMANDS = {
    "run": "train start launch fit execute resume",
    "sweep": "grid gridsearch tune multirun study",
    "table": "compare tabulate results",
    "evaluate": "eval test score predict",
    "list": "ls show names catalogue catalog info describe",
    "check": "validate lint verify dry_run",
    "new": "init create starter example scaffold",
    "doctor": "diagnose health env",
    "plot": "draw figure graph chart",
}

KEYS = {squeeze(word): key for key, words in _KEYS.items() for word in words.split()}
"""From the word of others, squeezed, to byzdist's dotted key or option of the command line."""

COMMANDS = {squeeze(word): command for command, words in _COMMANDS.items() for word in words.split()}
"""From the word of others, squeezed, to byzdist's command."""
