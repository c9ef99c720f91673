"""Takes the place of sbatch, scancel and scontrol: runs the script at once, as the job of a cluster of one machine.

Put on PATH under each of the three names. Keeps in $SLURM_TOY what it was asked (one JSON a call), and the job's
process, so that scancel finds it. Like the real one it prints the job's id before it waits, hands the job nothing of
its own environment but what it was given, and ends with the job's exit code.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

NUMBER = "4711"


def main() -> int:
    toy, name = Path(__file__).parent, Path(sys.argv[0]).name
    with (toy / "calls.jsonl").open("a") as calls:
        calls.write(json.dumps({"name": name, "arguments": sys.argv[1:], "environment": dict(os.environ)}) + "\n")
    if name == "scancel":
        os.killpg(int((toy / "job.pid").read_text()), signal.SIGTERM)
        return 0
    if name == "scontrol":
        print(f"JobId={NUMBER} JobName=toy JobState={(toy / 'state').read_text()} Reason=None ExitCode=0:9")
        return 0
    options = dict(
        word.removeprefix("--").split("=", 1) for word in sys.argv[1:] if word.startswith("--") and "=" in word
    )
    if options.get("partition") == "nowhere":
        print("sbatch: error: invalid partition specified: nowhere", file=sys.stderr)
        return 1
    print(f"{NUMBER};toy", flush=True)
    with open(options["output"], "w") as log:
        job = subprocess.Popen(["bash", sys.argv[-1]], stdout=log, stderr=log, start_new_session=True)
    (toy / "job.pid").write_text(str(job.pid))
    code = job.wait()
    (toy / "state").write_text({0: "COMPLETED", -signal.SIGKILL: "OUT_OF_MEMORY"}.get(code, "FAILED"))
    return 1 if code < 0 else code


if __name__ == "__main__":
    sys.exit(main())
