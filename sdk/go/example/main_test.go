package main

import (
	"encoding/json"
	"errors"
	"maps"
	"strings"
	"testing"

	"tidegate/plugin"
	"tidegate/plugin/plugintest"
)

type object = map[string]any

var one = object{"id": "0123456789abcdef", "message": "Fix <it>\n\nbody", "url": "https://forge/c/0", "author": object{"name": "Ada & Co"}}

func pushed(change object) *plugin.Event {
	body := object{
		"ref": "refs/heads/main", "repository": object{"full_name": "o/r", "html_url": "https://forge/o/r"},
		"pusher": object{"name": "ada"}, "compare": "https://forge/compare", "commits": []object{one},
	}
	maps.Copy(body, change)
	text, _ := json.Marshal(body)
	return plugintest.Event(string(text), "X-GitHub-Event", "push")
}

// told is the body that goes out; empty if nothing does.
func told(t *testing.T, event *plugin.Event, config string) string {
	t.Helper()
	outputs, err := pushToChat(event, &plugintest.Host{Config: config})
	if err != nil {
		t.Fatal(err)
	}
	if len(outputs) == 0 {
		return ""
	}
	return string(outputs[0].Changes().Body)
}

func TestAPushBecomesAMessage(t *testing.T) {
	const text = `ada pushed 1 commit to main of <https://forge/o/r|o/r>\n<https://forge/c/0|0123456> Fix &lt;it&gt; (Ada &amp; Co)`
	if got := told(t, pushed(nil), `{"channel": "#dev"}`); got != `{"text":"`+text+`","channel":"#dev"}` {
		t.Error(got)
	}
}

func TestALongPushIsCut(t *testing.T) {
	got := told(t, pushed(object{"commits": []object{one, one, one, one, one, one, one}}), "")
	if !strings.HasSuffix(got, `\nand 2 more: <https://forge/compare|compare>"}`) {
		t.Error(got)
	}
}

func TestADeletedBranchHasNoCommits(t *testing.T) {
	got := told(t, pushed(object{"deleted": true, "commits": []object{}}), "")
	if got != `{"text":"ada deleted branch main of <https://forge/o/r|o/r>"}` {
		t.Error(got)
	}
}

func TestWhatIsNotAPushToAWantedBranchIsDropped(t *testing.T) {
	for _, got := range []string{
		told(t, plugintest.Event("{}"), ""),
		told(t, pushed(object{"ref": "refs/tags/v1"}), ""),
		told(t, pushed(nil), `{"branches": ["release"]}`),
	} {
		if got != "" {
			t.Error(got)
		}
	}
}

func TestAPushWithoutARefFailsForGood(t *testing.T) {
	_, err := pushToChat(pushed(object{"ref": ""}), &plugintest.Host{})
	var failure *plugin.Failure
	if !errors.As(err, &failure) || failure.Code != "bad-payload" || failure.Retry != plugin.RetryNever {
		t.Error(err)
	}
}
