//go:build wasip1

package filter

import (
	"tidegate/plugin"
	"tidegate/plugin/internal/abi"
)

//go:wasmexport tidegate:plugin/filter@1.1.0#keep
func keep(
	id, idLength uint32, acceptedAt uint64, method, methodLength, path, pathLength, hasQuery, query, queryLength,
	headers, headersLength, body, bodyLength, attributes, attributesLength uint32,
) uint32 {
	event := abi.Event(
		abi.Pair{Address: id, Length: idLength}, acceptedAt, abi.Pair{Address: method, Length: methodLength},
		abi.Pair{Address: path, Length: pathLength}, hasQuery, abi.Pair{Address: query, Length: queryLength},
		abi.Pair{Address: headers, Length: headersLength}, abi.Pair{Address: body, Length: bodyLength},
		abi.Pair{Address: attributes, Length: attributesLength},
	)
	return abi.Kept(plugin.Keep(exported, event, abi.Gateway{}))
}
