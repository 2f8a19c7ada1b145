"""Settings: `config` declares them, `config_io` reads them, `foreign` knows others' names."""
