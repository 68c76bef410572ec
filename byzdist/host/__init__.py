"""What byzdist asks of the machine it runs on: files, locks, processes, signals, standard output."""
