#!/usr/bin/env python3
"""Measure imgbox beside its peers in one run: medians, as ratios. As root, on tmpfs.

usage: bench.py --imgbox PATH [--rounds N] [--only unpack|start] [--json FILE]
"""

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
CACHE = HERE.parent.parent / '.build' / 'bench'
WORK = Path('/dev/shm/imgbox-bench')
FLOOR = HERE.parent.parent.parent / 'shared' / 'floor' / 'floor.c'


def sh(*words, **options):
    return subprocess.run([str(w) for w in words], check=True, capture_output=True, **options)


def measure(words, clean):
    """One run: wall seconds, processor seconds of the whole process tree, peak memory in MB."""
    started = time.perf_counter()
    # time(1) is small: a child of this big process would begin with this process's own memory as its peak.
    note = WORK / 'peak'
    process = subprocess.Popen(['/usr/bin/time', '-f', '%M', '-o', note, *(str(w) for w in words)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit('%s: exit code %d: %s' % (' '.join(map(str, words)), process.returncode, errors.decode()[-300:]))
    clean()
    return wall, usage.ru_utime + usage.ru_stime, int(note.read_text().split()[-1]) / 1024


def contest(title, contenders, rounds, clean):
    """The contenders take turns, so that what else the machine does hits all of them."""
    results = {name: [] for name, _ in contenders}
    for _ in range(rounds):
        for name, words in contenders:
            results[name].append(measure(words, clean))
    first = next(iter(results))
    base = statistics.median(r[0] for r in results[first])
    print('\n%s (medians of %d; ratio to %s)' % (title, rounds, first))
    table = {}
    for name, runs in results.items():
        wall, cpu = statistics.median(r[0] for r in runs), statistics.median(r[1] for r in runs)
        peak = max(r[2] for r in runs)
        table[name] = {'wall_s': wall, 'cpu_s': cpu, 'peak_mb': peak}
        print('  %-34s %8.1f ms  %6.2fx  cpu %8.1f ms  peak %6.1f MB' % (name, wall * 1e3, wall / base, cpu * 1e3, peak))
    return table


def rootfs():
    """The tar of a minimal Debian system, made once."""
    tar = CACHE / 'debian.tar'
    if not tar.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        print('making a minimal Debian system with mmdebstrap (once)')
        sh('mmdebstrap', '--variant=minbase', '--mode=root', 'bookworm', CACHE / 'debian.part.tar')
        os.rename(CACHE / 'debian.part.tar', tar)
    for suffix, words in (('zst', ['zstd', '-q', '-3', '-k']), ('gz', ['gzip', '-k', '-6'])):
        if not Path('%s.%s' % (tar, suffix)).exists():
            sh(*words, tar)
    return tar


def put(layout, data, media_type):
    name = hashlib.sha256(data).hexdigest()
    (layout / 'blobs/sha256' / name).write_bytes(data)
    return {'mediaType': media_type, 'digest': 'sha256:' + name, 'size': len(data)}


def write_layout(layout, layers, suffix):
    """An OCI layout of (compressed, plain) layers under the name `bench`."""
    shutil.rmtree(layout, ignore_errors=True)
    (layout / 'blobs/sha256').mkdir(parents=True)
    oci = 'application/vnd.oci.image.'
    blobs = [put(layout, packed, oci + 'layer.v1.tar+' + suffix) for packed, _ in layers]
    config = {'created': '2024-01-01T00:00:00Z', 'architecture': 'amd64', 'os': 'linux', 'config': {}, 'history': [{'created': '2024-01-01T00:00:00Z', 'created_by': 'bench'} for _ in layers],
              'rootfs': {'type': 'layers', 'diff_ids': ['sha256:' + hashlib.sha256(plain).hexdigest() for _, plain in layers]}}
    manifest = {'schemaVersion': 2, 'mediaType': oci + 'manifest.v1+json',
                'config': put(layout, json.dumps(config).encode(), oci + 'config.v1+json'), 'layers': blobs}
    root = put(layout, json.dumps(manifest).encode(), oci + 'manifest.v1+json')
    root['annotations'] = {'org.opencontainers.image.ref.name': 'bench'}
    (layout / 'index.json').write_text(json.dumps({'schemaVersion': 2, 'manifests': [root]}))
    (layout / 'oci-layout').write_text('{"imageLayoutVersion":"1.0.0"}')


def three_layers(tar):
    """The same system cut in three: everything but /usr, /usr/share, the rest of /usr."""
    tree = WORK / 'tree'
    tree.mkdir()
    sh('tar', '-C', tree, '-xf', tar)
    parts = [['--exclude=./usr/*', '.'], ['./usr/share'], ['--exclude=./usr/share', './usr']]
    layers = []
    for part in parts:
        plain = sh('tar', '-C', tree, '--sort=name', '--numeric-owner', '-cf', '-', *part).stdout
        layers.append((sh('gzip', '-c', input=plain).stdout, plain))
    shutil.rmtree(tree)
    return layers


def unpack(imgbox, rounds):
    tar = rootfs()
    results = {}
    out = WORK / 'out'

    def clean():
        shutil.rmtree(out, ignore_errors=True)

    def bring(path):
        target = WORK / path.name
        shutil.copy(path, target)
        return target

    plain = tar.read_bytes()
    for suffix, kind, option in (('zst', 'zstd', '--zstd'), ('gz', 'gzip', '-z')):
        packed = Path('%s.%s' % (tar, suffix))
        write_layout(WORK / 'layout', [(packed.read_bytes(), plain)], kind)
        store = WORK / 'store'
        sh(imgbox, '--root', store, 'pull-local', WORK / 'layout', 'bench')
        archive = bring(packed)
        contenders = [('GNU tar -x %s' % kind, ['sh', '-c', 'mkdir %s && tar -C %s %s -xf %s' % (out, out, option, archive)]),
                      ('imgbox unpack', [imgbox, '--root', store, 'unpack', '-q', 'bench', out])]
        # umoci of Debian 12 knows no zstd.
        if kind == 'gzip':
            contenders.append(('umoci unpack', ['umoci', 'unpack', '--image', '%s:bench' % (WORK / 'layout'), out]))
        results['unpack ' + kind] = contest('unpack one layer, %s, %d MB' % (kind, len(plain) >> 20), contenders, rounds, clean)
        shutil.rmtree(store)
        archive.unlink()
    write_layout(WORK / 'layout', three_layers(tar), 'gzip')
    sh(imgbox, '--root', WORK / 'store', 'pull-local', WORK / 'layout', 'bench')
    results['unpack three layers'] = contest('unpack three layers, gzip', [
        ('imgbox unpack', [imgbox, '--root', WORK / 'store', 'unpack', '-q', 'bench', out]),
        ('umoci unpack', ['umoci', 'unpack', '--image', '%s:bench' % (WORK / 'layout'), out])], rounds, clean)
    return results


def start(imgbox, rounds):
    store, root, bundle = WORK / 'start', WORK / 'rootfs', WORK / 'bundle'
    (root / 'bin').mkdir(parents=True)
    for name in ('proc', 'sys', 'dev', 'etc'):
        (root / name).mkdir()
    shutil.copy(shutil.which('busybox'), root / 'bin/busybox')
    os.symlink('busybox', root / 'bin/true')
    sh(imgbox, '--root', store, 'pull-local', root, 'bench')
    bundle.mkdir()
    shutil.copytree(root, bundle / 'rootfs', symlinks=True)
    sh('runc', 'spec', cwd=bundle)
    spec = json.loads((bundle / 'config.json').read_text())
    spec['process'].update(terminal=False, args=['/bin/true'])
    spec['process'].pop('rlimits', None)
    (bundle / 'config.json').write_text(json.dumps(spec))
    contenders = []
    if FLOOR.exists():
        sh('gcc', '-O2', '-w', '-o', WORK / 'floor', FLOOR)
        (WORK / 'scratch').mkdir()
        contenders.append(('floor -n (bare kernel work)', [WORK / 'floor', '-n', root, WORK / 'scratch', '/bin/true']))
    contenders += [
        ('imgbox run --rm --network none', [imgbox, '--root', store, 'run', '--rm', '--network', 'none', 'bench', '/bin/true']),
        ('runc run', ['runc', 'run', '-b', bundle, 'imgbox-bench']),
        ('bwrap --unshare-all', ['bwrap', '--unshare-all', '--bind', root, '/', '--proc', '/proc', '--dev', '/dev', '/bin/true'])]
    podman = ['podman', '--root', WORK / 'podman', '--runroot', WORK / 'podman-run', '--storage-driver', 'vfs', '--runtime', 'runc', '--cgroup-manager', 'cgroupfs']
    results = {'start': contest('start a container, run /bin/true, clean up', contenders, rounds * 8, lambda: None)}
    try:
        sh(*podman, 'import', WORK / 'r.tar', 'bench') if sh('tar', '-C', root, '-cf', WORK / 'r.tar', '.') else None
        results['podman'] = contest('the same with podman', [('podman run --network none', podman + [
            'run', '--rm', '--ulimit', 'nofile=1024:1024', '--ulimit', 'nproc=1024:1024', '--network', 'none', 'bench', '/bin/true'])], max(3, rounds // 2), lambda: None)
    except subprocess.CalledProcessError as error:
        print('podman left out: %s' % error.stderr.decode()[-200:].strip())
    results['growth'] = growth(imgbox, store)
    results['version'] = contest('start of the program alone', [
        (name + ' --version', [path, '--version']) for name, path in (('imgbox', imgbox), ('crun', 'crun'), ('runc', 'runc'))], rounds * 8, lambda: None)
    return results


def growth(imgbox, store):
    """1,000 starts one after another and 50 at once: what the last ones cost beside the first, and what is left."""
    words = [str(imgbox), '--root', str(store), 'run', '--rm', 'bench', '/bin/true']
    times = []
    for _ in range(1000):
        begin = time.perf_counter()
        subprocess.run(words, check=True, stdin=subprocess.DEVNULL)
        times.append(time.perf_counter() - begin)
    first, last = statistics.median(times[:100]), statistics.median(times[-100:])
    begin = time.perf_counter()
    for process in [subprocess.Popen(words, stdin=subprocess.DEVNULL) for _ in range(50)]:
        if process.wait():
            sys.exit('one of 50 starts at once failed')
    together = time.perf_counter() - begin
    left = [name for name in os.listdir(store / 'containers') if name != '.names'] + os.listdir(store / 'containers/.names')
    groups = subprocess.run(['find', '/sys/fs/cgroup', '-path', '*imgbox/*', '-type', 'd'], capture_output=True, text=True).stdout.split()
    loops = [line for line in subprocess.run(['losetup', '-a'], capture_output=True, text=True).stdout.splitlines() if str(store) in line]
    print('\n1,000 starts one after another: first hundred %.1f ms, last hundred %.1f ms (medians); 50 at once: %.0f ms in all' % (
        first * 1e3, last * 1e3, together * 1e3))
    print('  left behind: %d directories, %d cgroups, %d loop devices' % (len(left), len(groups), len(loops)))
    return {'first_s': first, 'last_s': last, 'fifty_s': together, 'left': len(left) + len(groups) + len(loops)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--imgbox', required=True, type=Path)
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument('--only', choices=('unpack', 'start'))
    parser.add_argument('--json', type=Path)
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit('the benchmarks start containers and set owners: run them as root')
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir()
    results = {}
    try:
        if options.only != 'unpack':
            results.update(start(options.imgbox.resolve(), options.rounds))
        if options.only != 'start':
            results.update(unpack(options.imgbox.resolve(), options.rounds))
    finally:
        subprocess.run(['sh', '-c', 'umount -l %s/podman/overlay %s/podman 2>/dev/null; rm -rf %s' % (WORK, WORK, WORK)], check=False)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + '\n')


if __name__ == '__main__':
    main()
