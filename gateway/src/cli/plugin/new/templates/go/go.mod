module my-plugin

go 1.24

require tidegate/plugin v1.0.0

replace tidegate/plugin => ./sdk/go
