//go:build wasip1

package transform

import (
	"tidegate/plugin"
	"tidegate/plugin/internal/abi"
)

//go:wasmexport tidegate:plugin/transform@1.1.0#run
func run(
	id, idLength uint32, acceptedAt uint64, method, methodLength, path, pathLength, hasQuery, query, queryLength,
	headers, headersLength, body, bodyLength, attributes, attributesLength uint32,
) uint32 {
	event := abi.Event(
		abi.Pair{Address: id, Length: idLength}, acceptedAt, abi.Pair{Address: method, Length: methodLength},
		abi.Pair{Address: path, Length: pathLength}, hasQuery, abi.Pair{Address: query, Length: queryLength},
		abi.Pair{Address: headers, Length: headersLength}, abi.Pair{Address: body, Length: bodyLength},
		abi.Pair{Address: attributes, Length: attributesLength},
	)
	return abi.Outputs(plugin.Run(exported, event, abi.Gateway{}))
}
