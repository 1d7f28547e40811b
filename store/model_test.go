package store

import "testing"

func TestModelName(t *testing.T) {
	for name, want := range map[string]string{
		"google/gemini-3.1-flash-image-preview-20260226": "google/gemini-3.1-flash-image-preview",
		"google/gemini-3.1-flash-image-preview":          "google/gemini-3.1-flash-image-preview",
		"moonshotai/kimi-k2.6-20260420":                  "moonshotai/kimi-k2.6",
		"moonshotai/kimi-k2.6-20260420:free":             "moonshotai/kimi-k2.6:free",
		"openai/gpt-4.1-2025-04-14":                      "openai/gpt-4.1",
		"openai/gpt-4.1-2025-04-14:nitro":                "openai/gpt-4.1:nitro",
		"google/veo-3.1":                                 "google/veo-3.1",
		"deepseek/deepseek-chat-v3-0324":                 "deepseek/deepseek-chat-v3-0324",
		"mistralai/mistral-large-2407":                   "mistralai/mistral-large-2407",
		"x/y-20260226-20260227":                          "x/y",
		"x/y-20261399":                                   "x/y-20261399", // no date
		"x/y-19990101":                                   "x/y-19990101", // before there were any
		"x/y-12345678":                                   "x/y-12345678",
		"x/-20260226":                                    "x/-20260226", // nothing would be left
		"x/20260226":                                     "x/20260226",
		"OpenAI: GPT-4.1-2025-04-14":                     "OpenAI: GPT-4.1-2025-04-14",
		"unknown":                                        "unknown",
		"":                                               "",
	} {
		if got := ModelName(name); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
		if got := ModelName(want); got != want {
			t.Errorf("%s is %s the second time", want, got)
		}
	}
}
