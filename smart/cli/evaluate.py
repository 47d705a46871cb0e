"""`python evaluate.py adapter=DIR suite=paper`: an adapter becomes scores, and scores become comparisons."""

from __future__ import annotations

from pathlib import Path

from smart import evaluation
from smart.cli.app import run_command, say
from smart.config.command_line import shell_line
from smart.evaluation import EvaluateConfig
from smart.evaluation.compare import compare


def main() -> None:
    """The command; `--help` lists its keys."""
    run_command("evaluate", EvaluateConfig, evaluate)


def evaluate(config: EvaluateConfig) -> Path | None:
    """Print the scores or the comparison, and where they lie; returns the folder, None for a plan or a download."""
    if config.compare:
        folder, text = compare(config.compare, config.output, config.output_root / "tables")
        print(f"{text}\nTable and figure: {folder}")
        return folder
    if config.fetch_only:
        evaluation.fetch(config)
        say("Everything that this evaluation needs from the hub is there.")
        return None
    if config.plan:
        say(evaluation.plan(config))
        return None
    scores = evaluation.evaluate(config)
    say(scores.summary or "Scored before, with the same model and suite.")
    more = shell_line("python evaluate.py", compare=[scores.path, "OTHER_SCORES"])
    say(f"Scores: {scores.path}\nNext:   {more}")
    return scores.path


if __name__ == "__main__":
    main()
