//go:build wasip1

package respond

import (
	"tidegate/plugin"
	"tidegate/plugin/internal/abi"
)

//go:wasmexport tidegate:plugin/respond@1.1.0#answer
func answer(
	method, methodLength, path, pathLength, hasQuery, query, queryLength, headers, headersLength, body, bodyLength uint32,
	receivedAt uint64, attributes, attributesLength uint32,
) uint32 {
	arrival := abi.Arrival(
		abi.Pair{Address: method, Length: methodLength}, abi.Pair{Address: path, Length: pathLength}, hasQuery,
		abi.Pair{Address: query, Length: queryLength}, abi.Pair{Address: headers, Length: headersLength},
		abi.Pair{Address: body, Length: bodyLength}, receivedAt, abi.Pair{Address: attributes, Length: attributesLength},
	)
	return abi.Answered(plugin.AnswerArrival(exported, arrival, abi.Gateway{}))
}
