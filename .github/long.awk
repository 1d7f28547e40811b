# Prints lines of Go that are over 120 columns, tabs expanded. A string, a function literal and what a comment adds may go on
# to where they end, and so may a raw string.
/^(package|import|func|type|var|const) / { raw = 0 }
{ code = $0; gsub(/\\`|'`'|"`"/, "", code); quotes = gsub(/`/, "`", code) }
!raw && !quotes && !/^ *(return )?"/ && !/\\n"/ {
	if (code !~ /^ *\/\//)
		sub(/ +\/\/ .*/, "", code)
	if (length(code) > 122 && code !~ /func\(/)
		print
}
quotes % 2 { raw = !raw }
