"""The engine that `spm-infer run` and `spm-infer watch` share.

The way of a scan: *intake* (looks at a folder until a file rests) or *discovery* (lists what is there) → *ledger* (what is
known of every scan) → *supervisor* (whose turn it is, what an outcome means) → *workers* (processes that copy, read, analyse
and store one scan at a time, and may die of it) → ledger.
"""
