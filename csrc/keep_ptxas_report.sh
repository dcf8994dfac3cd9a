#!/bin/sh
# keep_ptxas_report.sh OBJECT COMMAND...: runs a compiler, and puts what ptxas tells about each kernel
# (-Xptxas=-v) into OBJECT.ptxas instead of the build's output; warnings into both.
object=$1
shift
log=$object.log
"$@" 2>"$log"
status=$?
grep -E '^ptxas (info|warning)|bytes stack frame' "$log" >"$object.ptxas"
grep -v -E '^ptxas info|bytes stack frame' "$log" >&2
rm -f "$log"
[ -s "$object.ptxas" ] || rm -f "$object.ptxas"
exit "$status"
