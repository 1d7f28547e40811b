BEGIN TRANSACTION;
CREATE TABLE client_daily_usage (id VARCHAR NOT NULL PRIMARY KEY, client_org_id VARCHAR NOT NULL, usage_date DATE NOT NULL,
			total_tokens BIGINT, total_requests INTEGER, raw_cost FLOAT, markup_cost FLOAT, primary_model VARCHAR,
			unique_users INTEGER, created_at BIGINT NOT NULL, updated_at BIGINT NOT NULL);
INSERT INTO "client_daily_usage" VALUES('acme_2025-11-12','acme','2025-11-12',1600,16,0.16,0.208,'x',1,1762952400,1762952400);
INSERT INTO "client_daily_usage" VALUES('acme_2025-11-11','acme','2025-11-11',2800,28,0.28,0.364,'x',1,1762905599,1762905599);
CREATE TABLE client_live_counters (client_org_id VARCHAR NOT NULL PRIMARY KEY, "current_date" DATE NOT NULL, today_tokens BIGINT,
			today_requests INTEGER, today_raw_cost FLOAT, today_markup_cost FLOAT, last_updated BIGINT NOT NULL);
CREATE TABLE client_model_daily_usage (id VARCHAR NOT NULL PRIMARY KEY, client_org_id VARCHAR NOT NULL, model_name VARCHAR NOT NULL,
			usage_date DATE NOT NULL, total_tokens BIGINT, total_requests INTEGER, raw_cost FLOAT, markup_cost FLOAT,
			provider VARCHAR, created_at BIGINT NOT NULL, updated_at BIGINT NOT NULL);
CREATE TABLE client_organizations (id VARCHAR NOT NULL PRIMARY KEY, name VARCHAR NOT NULL, openrouter_api_key TEXT NOT NULL UNIQUE,
			openrouter_key_hash VARCHAR, markup_rate FLOAT, monthly_limit FLOAT, billing_email VARCHAR,
			is_active INTEGER, created_at BIGINT NOT NULL, updated_at BIGINT NOT NULL, timezone VARCHAR);
INSERT INTO "client_organizations" VALUES('acme','Acme GmbH','sk-or-v1-integration-acme',NULL,1.3,NULL,NULL,1,1762959600,1762959600,'');
CREATE TABLE client_user_daily_usage (id VARCHAR NOT NULL PRIMARY KEY, client_org_id VARCHAR NOT NULL, user_id VARCHAR NOT NULL,
			openrouter_user_id VARCHAR NOT NULL, usage_date DATE NOT NULL, total_tokens BIGINT, total_requests INTEGER,
			raw_cost FLOAT, markup_cost FLOAT, created_at BIGINT NOT NULL, updated_at BIGINT NOT NULL);
INSERT INTO "client_user_daily_usage" VALUES('acme:background_sync:2025-11-12','acme','background_sync','bg_sync_acme','2025-11-12',1600,16,0.16,0.208,1762952400,1762952400);
INSERT INTO "client_user_daily_usage" VALUES('acme:background_sync:2025-11-11','acme','background_sync','bg_sync_acme','2025-11-11',2800,28,0.28,0.364,1762905599,1762905599);
CREATE TABLE global_settings (id VARCHAR NOT NULL PRIMARY KEY, openrouter_provisioning_key TEXT, default_markup_rate FLOAT,
			billing_currency VARCHAR, created_at BIGINT NOT NULL, updated_at BIGINT NOT NULL);
CREATE TABLE processed_generations (id VARCHAR NOT NULL PRIMARY KEY, client_org_id VARCHAR NOT NULL, generation_date DATE NOT NULL,
			processed_at BIGINT NOT NULL, total_cost FLOAT NOT NULL, total_tokens INTEGER NOT NULL);
CREATE TABLE usage_sync_alerts (client_org_id TEXT NOT NULL, kind TEXT NOT NULL, level TEXT NOT NULL, since INTEGER NOT NULL,
			message TEXT NOT NULL, PRIMARY KEY (client_org_id, kind)) WITHOUT ROWID;
CREATE TABLE usage_sync_books (client_org_id TEXT NOT NULL PRIMARY KEY, kept_from INTEGER NOT NULL, today TEXT NOT NULL,
			calendar_offset INTEGER);
CREATE TABLE usage_sync_days (client_org_id TEXT NOT NULL, usage_date TEXT NOT NULL, part TEXT NOT NULL, name TEXT NOT NULL,
			kind TEXT NOT NULL, requests INTEGER NOT NULL, tokens INTEGER NOT NULL, raw INTEGER NOT NULL,
			markup INTEGER NOT NULL, openrouter_user_id TEXT NOT NULL, row_id TEXT NOT NULL, row_created TEXT NOT NULL,
			noticed_at INTEGER NOT NULL, updated_at INTEGER NOT NULL,
			PRIMARY KEY (client_org_id, usage_date, part, name, kind)) WITHOUT ROWID;
CREATE TABLE usage_sync_generations (client_org_id TEXT NOT NULL, generation_date TEXT NOT NULL, id TEXT NOT NULL, created_at INTEGER NOT NULL,
			model_name TEXT NOT NULL, user_id TEXT NOT NULL, openrouter_user_id TEXT NOT NULL, markup_rate REAL NOT NULL,
			source TEXT NOT NULL, adopted INTEGER NOT NULL DEFAULT 0, resolution INTEGER NOT NULL DEFAULT -1,
			PRIMARY KEY (client_org_id, generation_date, id)) WITHOUT ROWID;
CREATE TABLE usage_sync_hours (client_org_id TEXT NOT NULL, hour INTEGER NOT NULL, requests INTEGER NOT NULL, raw_cost INTEGER NOT NULL,
			PRIMARY KEY (client_org_id, hour)) WITHOUT ROWID;
CREATE TABLE usage_sync_key_names (key_name TEXT NOT NULL PRIMARY KEY, client_org_id TEXT NOT NULL, updated_at INTEGER NOT NULL);
CREATE TABLE usage_sync_put_aside (id INTEGER PRIMARY KEY, takeover INTEGER NOT NULL, source_table TEXT NOT NULL, body TEXT NOT NULL);
CREATE TABLE usage_sync_runs (id INTEGER PRIMARY KEY, started_at INTEGER NOT NULL, ended_at INTEGER NOT NULL,
			client_org_id TEXT, organization TEXT, source TEXT, window_start INTEGER, window_end INTEGER,
			fetched INTEGER NOT NULL, recorded INTEGER NOT NULL, updated INTEGER NOT NULL, duplicates INTEGER NOT NULL,
			refused INTEGER NOT NULL, tokens INTEGER NOT NULL, raw_cost REAL NOT NULL, markup_cost REAL NOT NULL,
			api_requests INTEGER NOT NULL, exit_code INTEGER NOT NULL, error TEXT, note TEXT);
CREATE TABLE usage_sync_sources (client_org_id TEXT NOT NULL PRIMARY KEY, key_mark TEXT NOT NULL, source TEXT, tried_at INTEGER,
			key_hash TEXT, proved INTEGER);
CREATE TABLE usage_sync_state (client_org_id TEXT NOT NULL PRIMARY KEY, covered_from INTEGER, covered_to INTEGER, full_day TEXT,
			takeover TEXT, takeover_until INTEGER, updated_at INTEGER NOT NULL, takeover_from INTEGER);
CREATE TABLE usage_sync_takeovers (id INTEGER PRIMARY KEY, client_org_id TEXT NOT NULL, asked_at INTEGER NOT NULL, days TEXT NOT NULL,
			standing TEXT NOT NULL, last_write INTEGER, listed_from INTEGER, answer TEXT NOT NULL, answered_at INTEGER,
			answered_by TEXT NOT NULL);
INSERT INTO "usage_sync_takeovers" VALUES(1,'acme',1762959600,'["2025-11-11","2025-11-12"]','[]',1762952400,1762732800,'adopt',NULL,'root');
CREATE TABLE usage_sync_totals (client_org_id TEXT NOT NULL, counter TEXT NOT NULL, label TEXT NOT NULL, value INTEGER NOT NULL,
			PRIMARY KEY (client_org_id, counter, label)) WITHOUT ROWID;
CREATE TABLE user_client_mapping (id VARCHAR NOT NULL PRIMARY KEY, user_id VARCHAR NOT NULL, client_org_id VARCHAR NOT NULL,
			openrouter_user_id VARCHAR NOT NULL, is_active INTEGER, created_at BIGINT NOT NULL, updated_at BIGINT NOT NULL);
CREATE INDEX idx_active ON client_organizations (is_active);
CREATE INDEX idx_user_id ON user_client_mapping (user_id);
CREATE INDEX idx_client_org_id ON user_client_mapping (client_org_id);
CREATE INDEX idx_openrouter_user_id ON user_client_mapping (openrouter_user_id);
CREATE INDEX idx_client_date ON client_daily_usage (client_org_id, usage_date);
CREATE INDEX idx_usage_date ON client_daily_usage (usage_date);
CREATE INDEX idx_client_user_date ON client_user_daily_usage (client_org_id, user_id, usage_date);
CREATE INDEX idx_user_date ON client_user_daily_usage (user_id, usage_date);
CREATE INDEX idx_client_model_date ON client_model_daily_usage (client_org_id, model_name, usage_date);
CREATE INDEX idx_model_date ON client_model_daily_usage (model_name, usage_date);
CREATE INDEX idx_client_live_date ON client_live_counters (client_org_id, "current_date");
CREATE INDEX idx_processed_generations_org_date ON processed_generations (client_org_id, generation_date);
CREATE INDEX idx_processed_generations_processed_at ON processed_generations (processed_at);
CREATE INDEX usage_sync_takeovers_org ON usage_sync_takeovers (client_org_id);
CREATE INDEX usage_sync_put_aside_takeover ON usage_sync_put_aside (takeover);
CREATE INDEX usage_sync_runs_org ON usage_sync_runs (client_org_id, started_at);
CREATE INDEX usage_sync_runs_started ON usage_sync_runs (started_at);
COMMIT;
