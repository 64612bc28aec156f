"""The examples in the help of each command. tests/cli/test_arguments.py parses each of them."""

from __future__ import annotations

EXAMPLES: dict[str, tuple[str, ...]] = {
    "run": (
        "mesh run --data ~/blobs --peers b.example,c.example:7281",
        "mesh run --listen 0.0.0.0:7280 --key-file mesh.key",
        "mesh run --config /etc/mesh/mesh.toml",
        "mesh run --log-format json --log-level warning",
    ),
    "put": (
        "mesh put photo.jpg video.mp4",
        "mesh put --tree ~/photos --exclude '*.tmp'  # the snapshot comes last",
        "mesh put --tree ~/photos --tag 'before the move'",
        "mesh put --tree ~/photos --json | jq -r '.trees[0].snapshot'",
        "tar c ~/photos | mesh put -",
    ),
    "get": (
        "mesh get 7f3a9c -o photo.jpg  # the first digits, six or more",
        "mesh get 7f3a9c | tar x",
        "mesh get --tree 7f3a9c restored/",
        "mesh get --tree latest:atlas/home/ann/photos restored/",
        "mesh get --tree 7f3a9c --list | grep holiday",
        "mesh get --tree 7f3a9c --include '*.jpg' restored/",
        "mesh get 7f3a9c:2026/holiday.jpg -o holiday.jpg",
    ),
    "ls": (
        "mesh ls | head",
        "mesh ls 7f",
        "mesh ls --json-lines | jq .size",
    ),
    "has": (
        "mesh has 7f3a9c 0e5751",
        "b2sum -l 256 *.jpg | mesh has - || echo 'not all are here'",
    ),
    "show": (
        "mesh show 7f3a9c",
        "mesh show 7f3a9c --json | jq .manifest",
    ),
    "trees": (
        "mesh trees",
        "mesh trees --host atlas --path /home/ann/photos --last 3",
        "mesh trees --tag nightly --json",
    ),
    "status": (
        "mesh status",
        "mesh status --watch",
        "mesh status --check || echo 'not level' | mail root",
        "mesh status --node http://b.example:7280 --key-file mesh.key",
    ),
    "diff": ("mesh diff b", "mesh diff b --count", "mesh diff b --json-lines | jq .digest"),
    "errors": ("mesh errors", "mesh errors --retry"),
    "sync": (
        "mesh sync",
        "mesh sync b",
    ),
    "wait": (
        "mesh wait --timeout 60",
        "mesh wait --json-lines | jq .bytes_per_second",
        "mesh put photo.jpg && mesh wait --mesh  # every node has it then",
    ),
    "scrub": (
        "mesh scrub start --follow",
        "mesh scrub status",
    ),
    "reload": ("mesh reload",),
    "peers list": ("mesh peers list", "mesh peers list --json | jq '.peers[].state'"),
    "peers add": (
        "mesh peers add d=10.0.0.4:7280",
        "mesh peers add https://archive.example --direction push",
    ),
    "peers remove": ("mesh peers remove d",),
    "peers pause": ("mesh peers pause d",),
    "peers resume": ("mesh peers resume d",),
    "peers set-url": ("mesh peers set-url d 10.0.0.9:7280",),
    "key new": (
        "mesh key new mesh --key-file mesh.key -o shared.key",
        "mesh key new laptop --roles append --key-file mesh.key -o laptop.key",
        "mesh key new ann --roles admin --key-file mesh.key > ann.key",
    ),
    "key list": ("mesh key list --key-file mesh.key",),
    "key remove": ("mesh key remove laptop --key-file mesh.key && mesh reload",),
    "config init": ("mesh config init > mesh.toml",),
    "config show": ("mesh config show --config mesh.toml",),
    "config running": ("mesh config running",),
    "config check": ("mesh config check /etc/mesh/mesh.toml",),
    "version": ("mesh version",),
    "blobstash sync": (
        "mesh blobstash sync blobstash+http://old.example:8050 --one-way",
        "mesh blobstash sync blobstash+http://old:8050 --node http://b.example",
    ),
    "store check": ("mesh store check --data /srv/mesh --read-data",),
    "store rebuild": ("mesh store rebuild --data /srv/mesh",),
    "store stats": ("mesh store stats --data /srv/mesh --json",),
    "bench replicate": (
        "mesh bench replicate --count 20000 --nodes 3",
        "mesh bench replicate --count 128 --size 8MiB --against rsync",
    ),
    "bench put": ("mesh bench put --count 50000 --backend trio",),
    "bench tree": ("mesh bench tree ~/photos --nodes 3 --against rsync",),
    "bench fanout": ("mesh bench fanout --workers 3 --size 2GiB",),
    "bench node": ("mesh bench node --blobs 100000",),
    "bench plot": ("mesh bench plot --reconcile reconcile.json --out docs",),
    "bench reconcile": ("mesh bench reconcile --blobs 100000 --differ 1000 --json",),
}


def examples_of(path: str) -> tuple[str, ...]:
    """Those for a command by its whole path, such as `mesh store check`; none for a group."""
    words = path.split()
    if "mesh" not in words:
        return ()
    return EXAMPLES.get(" ".join(words[words.index("mesh") + 1 :]), ())
