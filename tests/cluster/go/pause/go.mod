module dynomite.io/tests/cluster/pause

go 1.24
