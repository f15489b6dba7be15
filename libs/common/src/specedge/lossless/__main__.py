"""``python -m specedge.lossless``: measures a running edge; `specedge verify-lossless` calls it.

Exit code 0 when the check holds, 1 when fp32 diverges, when the mode that the edge was started in
did not happen, or when the edge fails, 2 when there can be none of that URL. A key that the edge
asks for is in SPECEDGE_API_KEY.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

import orjson

from specedge.cli.console import out, report
from specedge.cli.edge_client import EdgeClient
from specedge.cli.failure import EXIT_FAILED, EXIT_INTERRUPTED, CommandFailed
from specedge.cli.stack import API_KEY_VARIABLE
from specedge.engine.reference import ReferenceDecoder
from specedge.engine.torch_host import prepare_host
from specedge.engine.torch_model import load_target_model
from specedge.errors import SpecEdgeError
from specedge.lossless.comparison import Report
from specedge.lossless.measuring import Measurement, measure
from specedge.lossless.modes import Mode
from specedge.lossless.plain_texts import PlainDecoding, PlainTexts
from specedge.lossless.progress import ComparisonProgress
from specedge.lossless.prompts import choose_prompts
from specedge.lossless.report import as_json, is_lossless, not_shown, show
from specedge.service.settings import variable


def main() -> int:
    """Measure as the flags say; results to stdout."""
    arguments = _arguments()
    try:
        reports = _measure(arguments)
    except CommandFailed as failure:
        report(failure)
        return failure.exit_code
    except SpecEdgeError as error:
        report(CommandFailed(str(error)))
        return EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    if arguments.json:
        sys.stdout.write(orjson.dumps(as_json(reports)).decode() + "\n")
    else:
        show(reports, out())
    return 0 if is_lossless(reports) and not not_shown(reports) else EXIT_FAILED


def _measure(arguments: argparse.Namespace) -> list[Report]:
    prompts = choose_prompts(arguments.prompts, arguments.prompts_file)
    measurement = Measurement(
        prompts=prompts,
        max_tokens=arguments.tokens,
        temperatures=arguments.temperature,
        seed=arguments.seed,
        parallel=arguments.parallel,
        dtype=arguments.dtype,
        mode=arguments.mode,
    )
    with EdgeClient(arguments.url, api_key=variable(API_KEY_VARIABLE)) as client:
        model = client.model()
        plain = PlainTexts(partial(_load, arguments, model), arguments.plain_file)
        total = len(prompts) * len(measurement.temperatures)
        with ComparisonProgress(total) as progress:
            reports = measure(
                measurement,
                client,
                model,
                plain,
                on_answered=progress.answered,
                on_compared=progress.compared,
            )
    plain.save()
    return reports


def _load(arguments: argparse.Namespace, model: str) -> PlainDecoding:
    loaded = load_target_model(
        arguments.model or model,
        cache_dir=arguments.cache_dir,
        dtype=arguments.dtype,
        device=prepare_host("cpu", arguments.threads),
    )
    return PlainDecoding(ReferenceDecoder(loaded), loaded.identity.stop_ids)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m specedge.lossless", description=__doc__)
    parser.add_argument("--url", required=True, help="where the edge listens")
    parser.add_argument("--prompts", type=int, required=True)
    parser.add_argument("--prompts-file", type=Path)
    parser.add_argument("--tokens", type=int, required=True)
    parser.add_argument("--temperature", type=float, action="append", required=True)
    parser.add_argument("--dtype", choices=("fp32", "bf16"), required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--parallel", type=int, required=True)
    parser.add_argument("--model", help="name or folder; what the edge says it serves if not given")
    parser.add_argument("--threads", type=int, help="compute threads of the plain decoder")
    parser.add_argument("--mode", type=Mode, help="how the edge was started, to be checked too")
    parser.add_argument("--plain-file", type=Path, help="keeps plain texts between runs")
    parser.add_argument("--cache-dir", type=Path, default=Path("~/.cache/specedge"))
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
