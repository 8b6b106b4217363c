//go:build wasip1

package sign

import (
	"tidegate/plugin"
	"tidegate/plugin/internal/abi"
)

//go:wasmexport tidegate:plugin/sign@1.1.0#headers
func headers(attempt uint32) uint32 {
	return abi.Headers(plugin.SignAttempt(exported, abi.Attempt(attempt), abi.Gateway{}))
}
