"""Size of the page of predict.py --export, and milliseconds that it takes to answer, in headless Chromium.

    python tests/bench_webpage.py --model output/model.pth

Prepare: from the pixels of the sheet, or of a photo of 1,024 x 768, to the network's input. Network: one forward pass.
Worker: both together, as the page for photos has them computed. The first is with code that is not compiled yet.
"""

import argparse
import platform
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from conftest import BROWSER_FLAGS
from selenium import webdriver

from neural_lib.prediction import Recogniser, webpage

MEASURE = """
let picture;
if (model.placement) {
  context.lineWidth = PEN;
  context.stroke(new Path2D("M60 60 C 250 20, 260 200, 90 230 M60 130 L 200 140"));
  picture = context.getImageData(0, 0, SIDE, SIDE);
} else {
  const noise = Uint8ClampedArray.from({length: 4 * 1024 * 768}, (_, i) => 256 * Math.abs(Math.sin(i)));
  picture = new ImageData(noise, 1024, 768);
}
const here = new Network(model), times = {prepare: [], network: []};
if (!model.placement) times.worker = [];
for (let i = 0; i < arguments[0]; i++) {
  const start = performance.now(), pixels = prepare(picture, model, "yes"), middle = performance.now();
  here.answer(pixels);
  times.prepare.push(middle - start);
  times.network.push(performance.now() - middle);
  if (!times.worker) continue;
  const again = performance.now();
  await answer(picture);
  times.worker.push(performance.now() - again);
}
return times;
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="output/model.pth")
    parser.add_argument("--rounds", type=int, default=100)
    args = parser.parse_args()
    recogniser, options = Recogniser.load(args.model, "cpu"), webdriver.ChromeOptions()
    content = webpage.to_html(recogniser, webpage.model_of(recogniser)).encode()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        page = Path(folder, "page.html")
        page.write_bytes(content)
        for flag in (*BROWSER_FLAGS, f"--user-data-dir={folder}/user"):
            options.add_argument(flag)
        driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
        driver.set_script_timeout(3600)
        driver.get(page.as_uri())
        times = driver.execute_script(MEASURE, args.rounds)
        version = driver.capabilities["browserVersion"]
        driver.quit()
    saved = recogniser.saved
    print(f"{saved.arch} {saved.arch_args}, Chromium {version}, {platform.machine()}, {len(content) / 1e6:.1f} MB, ms")
    for what, each in times.items():
        ordered = sorted(each)
        median, high = ordered[len(ordered) // 2], ordered[int(0.95 * len(ordered))]
        print(f"{what:8} first {each[0]:6.1f}, median {median:6.1f}, 95 % below {high:6.1f} (n = {len(each)})")


if __name__ == "__main__":
    main()
