#!/usr/bin/env python3
"""litellm's proxy (litellm[proxy] 1.110.2 was measured) in front of an OpenAI-compatible server, until it is interrupted.

    python proxy_litellm.py --upstream-port 18080 --port 18081 [--workers 1]

Then, while it runs: `cargo bench -p truing-serve --bench proxy -- 100 4 3 18080 18081`. The proxy knows one model, `m`, and neither
logs, counts nor retries.
"""
import argparse
import os
import pathlib
import subprocess
import sys
import tempfile

CONFIG = """model_list:
  - model_name: m
    litellm_params: {{ model: openai/m, api_base: "http://127.0.0.1:{port}/v1", api_key: none }}
litellm_settings: {{ num_retries: 0, telemetry: false, drop_params: false }}
general_settings: {{ disable_spend_logs: true }}
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--upstream-port", type=int, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config = pathlib.Path(folder) / "config.yaml"
        config.write_text(CONFIG.format(port=options.upstream_port), encoding="utf-8")
        program = pathlib.Path(sys.executable).with_name("litellm")
        command = [program, "--config", config, "--host", "127.0.0.1", "--port", str(options.port), "--num_workers",
                   str(options.workers)]
        environment = {**os.environ, "LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        sys.exit(subprocess.run(command, env=environment, check=False).returncode)


if __name__ == "__main__":
    main()
