package main

import (
	"testing"

	"tidegate/plugin/plugintest"
)

func TestNewIssuesAreAnnouncedAndNothingElse(t *testing.T) {
	opened := plugintest.Event(`{"action": "opened", "issue": {"title": "it leaks"}}`)
	outputs, err := announce(opened, &plugintest.Host{})
	if err != nil || len(outputs) != 1 {
		t.Fatal(outputs, err)
	}
	if body := string(outputs[0].Changes().Body); body != `{"text":"new issue: it leaks"}` {
		t.Error(body)
	}
	closed := plugintest.Event(`{"action": "closed", "issue": {"title": "it leaks"}}`)
	if outputs, err := announce(closed, &plugintest.Host{}); err != nil || len(outputs) != 0 {
		t.Error(outputs, err)
	}
}
