"""Names of models and datasets that lead somewhere else: to other hosts, files and schemes."""

from __future__ import annotations

NAMES = (
    *("http://169.254.169.254/latest/meta-data", "https://127.0.0.1:6379/", "//127.0.0.1/x"),
    *("http://[::1]/x", "http://0x7f000001/", "http://127.1/", "http://localhost@evil.test/x"),
    *("ftp://127.0.0.1/x", "gopher://127.0.0.1:6379/_INFO", "dict://127.0.0.1:11211/stat"),
    *(
        "file:///etc/passwd",
        "file://localhost/etc/passwd",
        "FILE:///etc/passwd",
        "file:/etc/passwd",
    ),
    *("s3://bucket/key", "gs://bucket/key", "hf://datasets/owner/name", "abfs://c@a/x"),
    *("memory://x", "zip://a::file:///etc/passwd", "simplecache::file:///etc/passwd"),
    *("tar://x::http://127.0.0.1/", "github://o:r@/x", "data:text/csv,a", "jar:file:///x!/y"),
    *("/etc/passwd", "//etc/passwd", "/proc/self/environ", "/dev/zero", "~/x", "~root/x"),
    *("../../../etc/passwd", "..", ".", "./x", "a/../../b", "a/..", "..%2f..%2fetc%2fpasswd"),
    *("..\\..\\etc\\passwd", "C:\\Windows\\win.ini", "\\\\host\\share", "a\\b", "%2e%2e/x"),
    *("owner/name/../..", "owner/name?x=1", "owner/name#x", "owner/name@../../x", "owner//name"),
    *("owner/name@refs/pr/1;x", "owner/name@\nHost: evil", "owner/na me", " owner/name"),
    *("owner/name\r\nX: y", "$(touch /tmp/x)/y", "`id`/x", "${HOME}/x", "{{7*7}}/x", "a|b", "a;b"),
    *("a'b", 'a"b', "<b>/x", "a&b", "a=b", "a*b", "a:b/c", "@owner/name", "-rf/x", "--help"),
    *("ｏｗｎｅｒ/ｎａｍｅ", "owner／name", "owner/nаme", "\u202eowner/name", "owner/\ufeffname"),
    *("😀/x", "é/x", "owner/" + "n" * 300, "a/" * 200 + "b", "\x1b[31m/x", "\x7f/x"),
)
"""None of them is a name; whoever is asked for one answers so, and asks nobody else."""
