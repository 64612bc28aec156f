"""A program without async."""

import sys
from pathlib import Path

import mesh


def main(url: str, file: Path) -> None:
    with mesh.sync.Client(url) as client:
        digest: str = client.put(file)
        try:
            client.get("0" * 64)
        except mesh.NotFound as error:
            print(str(error).partition(" is ")[0][:12])
        with client.open(digest) as blob:
            blob.seek(-7, 2)
            last: bytes = blob.read()
        sizes: list[int] = [each.size for each in client.list(digest)]
        print(last, sizes, client.status().state)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
