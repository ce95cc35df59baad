"""Write the exercises of the chapters as notebooks to work in, one for each chapter, without the solutions.

    python tools/exercises.py [folder]          into exercises/, if no folder is named; a notebook that is there is kept
"""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "_ext"))
import quant101_exercises  # noqa: E402


def main(folder: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    for chapter in sorted((ROOT / "nbs").glob("0*.ipynb")):
        made = quant101_exercises.to_work_in(json.loads(chapter.read_text(encoding="utf8")))
        target = folder / f"{chapter.stem}_exercises.ipynb"
        if made is None:
            continue
        if target.exists():
            print(f"{target} is there already and is left alone, with your answers in it")
            continue
        target.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf8")
        print(target)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "exercises"))
