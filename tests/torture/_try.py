import sys

from tests.torture import sandbox

mod, name, n = sys.argv[1], sys.argv[2], int(sys.argv[3])
if __name__ == "__main__":
    r = sandbox.run(f"tests.torture.{mod}", name, n, start=int(sys.argv[4]) if len(sys.argv) > 4 else 0)
    print(r.check, r.tried, r.survived, r.lost, r.note)
    import re
    from collections import Counter

    c = Counter(re.sub(r"case \d+", "case", re.sub(r"'.*' at", "at", f)) for f in r.failures)
    for k, v in c.most_common(15):
        print(v, k)
    for f in r.failures[:6]:
        print("  ", f[:300])
