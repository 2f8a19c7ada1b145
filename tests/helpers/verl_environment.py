"""The environment of verl's processes on a CPU, before anything of verl is imported."""

ENVIRONMENT = {
    "GLOO_SOCKET_IFNAME": "lo",
    "OMP_NUM_THREADS": "1",
    "VERL_PLATFORM": "cpu",
    "VERL_ENGINE_DEVICE": "cuda",  # whose engines are those of the CPU, too
    "VERL_USE_EXTERNAL_MODULES": "helpers.verl_cpu,objdsl.adapters.verl_plugin",
}
