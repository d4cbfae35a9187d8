module github.com/roam-go/roam/examples/console

go 1.26.0

require (
	github.com/roam-go/roam v0.0.0-00010101000000-000000000000
	github.com/stretchr/testify v1.12.1
	golang.org/x/term v0.47.0
)

require (
	github.com/hashicorp/go-msgpack/v2 v2.1.5 // indirect
	go.yaml.in/yaml/v3 v3.0.5 // indirect
	golang.org/x/sys v0.49.0 // indirect
)

replace github.com/roam-go/roam => ../..
