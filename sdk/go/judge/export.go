//go:build wasip1

package judge

import (
	"tidegate/plugin"
	"tidegate/plugin/internal/abi"
)

//go:wasmexport tidegate:plugin/judge@1.1.0#judge
func judge(given uint32) uint32 {
	attempt, response := abi.Judged(given)
	return abi.Judgement(plugin.JudgeResponse(exported, attempt, response, abi.Gateway{}))
}
