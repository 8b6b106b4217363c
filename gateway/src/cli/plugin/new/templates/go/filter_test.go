package main

import (
	"testing"

	"tidegate/plugin/plugintest"
)

func TestNewIssuesGoOnAndNothingElse(t *testing.T) {
	for action, expected := range map[string]bool{"opened": true, "closed": false} {
		event := plugintest.Event(`{"action": "` + action + `", "issue": {"title": "it leaks"}}`)
		if kept, err := isNewIssue(event, &plugintest.Host{}); err != nil || kept != expected {
			t.Errorf("%s: %v, %v", action, kept, err)
		}
	}
}
