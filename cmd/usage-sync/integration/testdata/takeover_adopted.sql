BEGIN TRANSACTION;
CREATE TABLE client_daily_usage (id VARCHAR NOT NULL PRIMARY KEY, client_org_id VARCHAR NOT NULL, usage_date DATE NOT NULL,
			total_tokens BIGINT, total_requests INTEGER, raw_cost FLOAT, markup_cost FLOAT, primary_model VARCHAR,
			unique_users INTEGER, created_at BIGINT NOT NULL, updated_at BIGINT NOT NULL);
INSERT INTO "client_daily_usage" VALUES('acme_2025-11-11','acme','2025-11-11',2800,28,0.28,0.364,'x',1,1762905599,1762905599);
CREATE TABLE client_live_counters (client_org_id VARCHAR NOT NULL PRIMARY KEY, "current_date" DATE NOT NULL, today_tokens BIGINT,
			today_requests INTEGER, today_raw_cost FLOAT, today_markup_cost FLOAT, last_updated BIGINT NOT NULL);
INSERT INTO "client_live_counters" VALUES('acme','2025-11-12',1800,18,0.18,0.234,1762959600);
CREATE TABLE client_model_daily_usage (id VARCHAR NOT NULL PRIMARY KEY, client_org_id VARCHAR NOT NULL, model_name VARCHAR NOT NULL,
			usage_date DATE NOT NULL, total_tokens BIGINT, total_requests INTEGER, raw_cost FLOAT, markup_cost FLOAT,
			provider VARCHAR, created_at BIGINT NOT NULL, updated_at BIGINT NOT NULL);
INSERT INTO "client_model_daily_usage" VALUES('acme:openai/gpt-4o:2025-11-12','acme','openai/gpt-4o','2025-11-12',200,2,0.02,0.026,'openai',1762959600,1762959600);
CREATE TABLE client_organizations (id VARCHAR NOT NULL PRIMARY KEY, name VARCHAR NOT NULL, openrouter_api_key TEXT NOT NULL UNIQUE,
			openrouter_key_hash VARCHAR, markup_rate FLOAT, monthly_limit FLOAT, billing_email VARCHAR,
			is_active INTEGER, created_at BIGINT NOT NULL, updated_at BIGINT NOT NULL, timezone VARCHAR);
INSERT INTO "client_organizations" VALUES('acme','Acme GmbH','sk-or-v1-integration-acme',NULL,1.3,NULL,NULL,1,1762959600,1762959600,'');
CREATE TABLE client_user_daily_usage (id VARCHAR NOT NULL PRIMARY KEY, client_org_id VARCHAR NOT NULL, user_id VARCHAR NOT NULL,
			openrouter_user_id VARCHAR NOT NULL, usage_date DATE NOT NULL, total_tokens BIGINT, total_requests INTEGER,
			raw_cost FLOAT, markup_cost FLOAT, created_at BIGINT NOT NULL, updated_at BIGINT NOT NULL);
INSERT INTO "client_user_daily_usage" VALUES('acme:background_sync:2025-11-12','acme','background_sync','bg_sync_acme','2025-11-12',1800,18,0.18,0.234,1762952400,1762959600);
INSERT INTO "client_user_daily_usage" VALUES('acme:background_sync:2025-11-11','acme','background_sync','bg_sync_acme','2025-11-11',2800,28,0.28,0.364,1762905599,1762905599);
CREATE TABLE global_settings (id VARCHAR NOT NULL PRIMARY KEY, openrouter_provisioning_key TEXT, default_markup_rate FLOAT,
			billing_currency VARCHAR, created_at BIGINT NOT NULL, updated_at BIGINT NOT NULL);
CREATE TABLE processed_generations (id VARCHAR NOT NULL PRIMARY KEY, client_org_id VARCHAR NOT NULL, generation_date DATE NOT NULL,
			processed_at BIGINT NOT NULL, total_cost FLOAT NOT NULL, total_tokens INTEGER NOT NULL);
INSERT INTO "processed_generations" VALUES('gen-02','acme','2025-11-12',1762959600,0.01,100);
INSERT INTO "processed_generations" VALUES('gen-03','acme','2025-11-12',1762959600,0.01,100);
INSERT INTO "processed_generations" VALUES('gen-04','acme','2025-11-12',1762959600,0.01,100);
INSERT INTO "processed_generations" VALUES('gen-00','acme','2025-11-12',1762959600,0.01,100);
INSERT INTO "processed_generations" VALUES('gen-01','acme','2025-11-12',1762959600,0.01,100);
INSERT INTO "processed_generations" VALUES('gen-05','acme','2025-11-12',1762959600,0.01,100);
INSERT INTO "processed_generations" VALUES('gen-06','acme','2025-11-12',1762959600,0.01,100);
INSERT INTO "processed_generations" VALUES('gen-07','acme','2025-11-12',1762959600,0.01,100);
INSERT INTO "processed_generations" VALUES('gen-08','acme','2025-11-12',1762959600,0.01,100);
INSERT INTO "processed_generations" VALUES('gen-09','acme','2025-11-12',1762959600,0.01,100);
INSERT INTO "processed_generations" VALUES('gen-10','acme','2025-11-11',1762959600,0.01,100);
INSERT INTO "processed_generations" VALUES('gen-11','acme','2025-11-11',1762959600,0.01,100);
INSERT INTO "processed_generations" VALUES('gen-12','acme','2025-11-11',1762959600,0.01,100);
INSERT INTO "processed_generations" VALUES('gen-13','acme','2025-11-11',1762959600,0.01,100);
INSERT INTO "processed_generations" VALUES('gen-14','acme','2025-11-11',1762959600,0.01,100);
INSERT INTO "processed_generations" VALUES('gen-15','acme','2025-11-11',1762959600,0.01,100);
INSERT INTO "processed_generations" VALUES('gen-16','acme','2025-11-11',1762959600,0.01,100);
INSERT INTO "processed_generations" VALUES('gen-17','acme','2025-11-11',1762959600,0.01,100);
INSERT INTO "processed_generations" VALUES('gen-18','acme','2025-11-11',1762959600,0.01,100);
INSERT INTO "processed_generations" VALUES('gen-19','acme','2025-11-11',1762959600,0.01,100);
INSERT INTO "processed_generations" VALUES('gen-20','acme','2025-11-11',1762959600,0.01,100);
INSERT INTO "processed_generations" VALUES('gen-21','acme','2025-11-11',1762959600,0.01,100);
INSERT INTO "processed_generations" VALUES('gen-22','acme','2025-11-11',1762959600,0.01,100);
INSERT INTO "processed_generations" VALUES('gen-23','acme','2025-11-11',1762959600,0.01,100);
CREATE TABLE usage_sync_alerts (client_org_id TEXT NOT NULL, kind TEXT NOT NULL, level TEXT NOT NULL, since INTEGER NOT NULL,
			message TEXT NOT NULL, PRIMARY KEY (client_org_id, kind)) WITHOUT ROWID;
CREATE TABLE usage_sync_books (client_org_id TEXT NOT NULL PRIMARY KEY, kept_from INTEGER NOT NULL, today TEXT NOT NULL,
			calendar_offset INTEGER);
INSERT INTO "usage_sync_books" VALUES('acme',1762959600,'live',NULL);
CREATE TABLE usage_sync_days (client_org_id TEXT NOT NULL, usage_date TEXT NOT NULL, part TEXT NOT NULL, name TEXT NOT NULL,
			kind TEXT NOT NULL, requests INTEGER NOT NULL, tokens INTEGER NOT NULL, raw INTEGER NOT NULL,
			markup INTEGER NOT NULL, openrouter_user_id TEXT NOT NULL, row_id TEXT NOT NULL, row_created TEXT NOT NULL,
			noticed_at INTEGER NOT NULL, updated_at INTEGER NOT NULL,
			PRIMARY KEY (client_org_id, usage_date, part, name, kind)) WITHOUT ROWID;
INSERT INTO "usage_sync_days" VALUES('acme','2025-11-11','day','','adopted',28,2800,280000000000,364000000000,'','','',1762959600,1762959600);
INSERT INTO "usage_sync_days" VALUES('acme','2025-11-11','day','','counted',0,0,0,0,'','','',1762959600,1762959600);
INSERT INTO "usage_sync_days" VALUES('acme','2025-11-11','user','background_sync','adopted',28,2800,280000000000,364000000000,'bg_sync_acme','acme:background_sync:2025-11-11','1762905599',1762959600,1762959600);
INSERT INTO "usage_sync_days" VALUES('acme','2025-11-11','user','background_sync','counted',0,0,0,0,'bg_sync_acme','acme:background_sync:2025-11-11','1762905599',1762959600,1762959600);
INSERT INTO "usage_sync_days" VALUES('acme','2025-11-12','day','','adopted',16,1600,160000000000,208000000000,'','','',1762959600,1762959600);
INSERT INTO "usage_sync_days" VALUES('acme','2025-11-12','day','','counted',2,200,20000000000,26000000000,'','','',1762959600,1762959600);
INSERT INTO "usage_sync_days" VALUES('acme','2025-11-12','model','openai/gpt-4o','counted',2,200,20000000000,26000000000,'','acme:openai/gpt-4o:2025-11-12','1762959600',1762959600,1762959600);
INSERT INTO "usage_sync_days" VALUES('acme','2025-11-12','user','background_sync','adopted',16,1600,160000000000,208000000000,'bg_sync_acme','acme:background_sync:2025-11-12','1762952400',1762959600,1762959600);
INSERT INTO "usage_sync_days" VALUES('acme','2025-11-12','user','background_sync','counted',2,200,20000000000,26000000000,'bg_sync_acme','acme:background_sync:2025-11-12','1762952400',1762959600,1762959600);
INSERT INTO "usage_sync_days" VALUES('acme','2025-11-13','day','','counted',0,0,0,0,'','','',1762959600,1762959600);
CREATE TABLE usage_sync_generations (client_org_id TEXT NOT NULL, generation_date TEXT NOT NULL, id TEXT NOT NULL, created_at INTEGER NOT NULL,
			model_name TEXT NOT NULL, user_id TEXT NOT NULL, openrouter_user_id TEXT NOT NULL, markup_rate REAL NOT NULL,
			source TEXT NOT NULL, adopted INTEGER NOT NULL DEFAULT 0, resolution INTEGER NOT NULL DEFAULT -1,
			PRIMARY KEY (client_org_id, generation_date, id)) WITHOUT ROWID;
INSERT INTO "usage_sync_generations" VALUES('acme','2025-11-11','gen-10',1762905540,'openai/gpt-4o','background_sync','bg_sync_acme',1.3,'generations',1,0);
INSERT INTO "usage_sync_generations" VALUES('acme','2025-11-11','gen-11',1762900140,'openai/gpt-4o','background_sync','bg_sync_acme',1.3,'generations',1,0);
INSERT INTO "usage_sync_generations" VALUES('acme','2025-11-11','gen-12',1762894740,'openai/gpt-4o','background_sync','bg_sync_acme',1.3,'generations',1,0);
INSERT INTO "usage_sync_generations" VALUES('acme','2025-11-11','gen-13',1762889340,'openai/gpt-4o','background_sync','bg_sync_acme',1.3,'generations',1,0);
INSERT INTO "usage_sync_generations" VALUES('acme','2025-11-11','gen-14',1762883940,'openai/gpt-4o','background_sync','bg_sync_acme',1.3,'generations',1,0);
INSERT INTO "usage_sync_generations" VALUES('acme','2025-11-11','gen-15',1762878540,'openai/gpt-4o','background_sync','bg_sync_acme',1.3,'generations',1,0);
INSERT INTO "usage_sync_generations" VALUES('acme','2025-11-11','gen-16',1762873140,'openai/gpt-4o','background_sync','bg_sync_acme',1.3,'generations',1,0);
INSERT INTO "usage_sync_generations" VALUES('acme','2025-11-11','gen-17',1762867740,'openai/gpt-4o','background_sync','bg_sync_acme',1.3,'generations',1,0);
INSERT INTO "usage_sync_generations" VALUES('acme','2025-11-11','gen-18',1762862340,'openai/gpt-4o','background_sync','bg_sync_acme',1.3,'generations',1,0);
INSERT INTO "usage_sync_generations" VALUES('acme','2025-11-11','gen-19',1762856940,'openai/gpt-4o','background_sync','bg_sync_acme',1.3,'generations',1,0);
INSERT INTO "usage_sync_generations" VALUES('acme','2025-11-11','gen-20',1762851540,'openai/gpt-4o','background_sync','bg_sync_acme',1.3,'generations',1,0);
INSERT INTO "usage_sync_generations" VALUES('acme','2025-11-11','gen-21',1762846140,'openai/gpt-4o','background_sync','bg_sync_acme',1.3,'generations',1,0);
INSERT INTO "usage_sync_generations" VALUES('acme','2025-11-11','gen-22',1762840740,'openai/gpt-4o','background_sync','bg_sync_acme',1.3,'generations',1,0);
INSERT INTO "usage_sync_generations" VALUES('acme','2025-11-11','gen-23',1762835340,'openai/gpt-4o','background_sync','bg_sync_acme',1.3,'generations',1,0);
INSERT INTO "usage_sync_generations" VALUES('acme','2025-11-12','gen-00',1762959540,'openai/gpt-4o','background_sync','bg_sync_acme',1.3,'generations',0,0);
INSERT INTO "usage_sync_generations" VALUES('acme','2025-11-12','gen-01',1762954140,'openai/gpt-4o','background_sync','bg_sync_acme',1.3,'generations',0,0);
INSERT INTO "usage_sync_generations" VALUES('acme','2025-11-12','gen-02',1762948740,'openai/gpt-4o','background_sync','bg_sync_acme',1.3,'generations',1,0);
INSERT INTO "usage_sync_generations" VALUES('acme','2025-11-12','gen-03',1762943340,'openai/gpt-4o','background_sync','bg_sync_acme',1.3,'generations',1,0);
INSERT INTO "usage_sync_generations" VALUES('acme','2025-11-12','gen-04',1762937940,'openai/gpt-4o','background_sync','bg_sync_acme',1.3,'generations',1,0);
INSERT INTO "usage_sync_generations" VALUES('acme','2025-11-12','gen-05',1762932540,'openai/gpt-4o','background_sync','bg_sync_acme',1.3,'generations',1,0);
INSERT INTO "usage_sync_generations" VALUES('acme','2025-11-12','gen-06',1762927140,'openai/gpt-4o','background_sync','bg_sync_acme',1.3,'generations',1,0);
INSERT INTO "usage_sync_generations" VALUES('acme','2025-11-12','gen-07',1762921740,'openai/gpt-4o','background_sync','bg_sync_acme',1.3,'generations',1,0);
INSERT INTO "usage_sync_generations" VALUES('acme','2025-11-12','gen-08',1762916340,'openai/gpt-4o','background_sync','bg_sync_acme',1.3,'generations',1,0);
INSERT INTO "usage_sync_generations" VALUES('acme','2025-11-12','gen-09',1762910940,'openai/gpt-4o','background_sync','bg_sync_acme',1.3,'generations',1,0);
CREATE TABLE usage_sync_hours (client_org_id TEXT NOT NULL, hour INTEGER NOT NULL, requests INTEGER NOT NULL, raw_cost INTEGER NOT NULL,
			PRIMARY KEY (client_org_id, hour)) WITHOUT ROWID;
INSERT INTO "usage_sync_hours" VALUES('acme',1762833600,1,10000000000);
INSERT INTO "usage_sync_hours" VALUES('acme',1762837200,1,10000000000);
INSERT INTO "usage_sync_hours" VALUES('acme',1762844400,1,10000000000);
INSERT INTO "usage_sync_hours" VALUES('acme',1762848000,1,10000000000);
INSERT INTO "usage_sync_hours" VALUES('acme',1762855200,1,10000000000);
INSERT INTO "usage_sync_hours" VALUES('acme',1762858800,1,10000000000);
INSERT INTO "usage_sync_hours" VALUES('acme',1762866000,1,10000000000);
INSERT INTO "usage_sync_hours" VALUES('acme',1762869600,1,10000000000);
INSERT INTO "usage_sync_hours" VALUES('acme',1762876800,1,10000000000);
INSERT INTO "usage_sync_hours" VALUES('acme',1762880400,1,10000000000);
INSERT INTO "usage_sync_hours" VALUES('acme',1762887600,1,10000000000);
INSERT INTO "usage_sync_hours" VALUES('acme',1762891200,1,10000000000);
INSERT INTO "usage_sync_hours" VALUES('acme',1762898400,1,10000000000);
INSERT INTO "usage_sync_hours" VALUES('acme',1762902000,1,10000000000);
INSERT INTO "usage_sync_hours" VALUES('acme',1762909200,1,10000000000);
INSERT INTO "usage_sync_hours" VALUES('acme',1762912800,1,10000000000);
INSERT INTO "usage_sync_hours" VALUES('acme',1762920000,1,10000000000);
INSERT INTO "usage_sync_hours" VALUES('acme',1762923600,1,10000000000);
INSERT INTO "usage_sync_hours" VALUES('acme',1762930800,1,10000000000);
INSERT INTO "usage_sync_hours" VALUES('acme',1762934400,1,10000000000);
INSERT INTO "usage_sync_hours" VALUES('acme',1762941600,1,10000000000);
INSERT INTO "usage_sync_hours" VALUES('acme',1762945200,1,10000000000);
INSERT INTO "usage_sync_hours" VALUES('acme',1762952400,1,10000000000);
INSERT INTO "usage_sync_hours" VALUES('acme',1762956000,1,10000000000);
CREATE TABLE usage_sync_key_names (key_name TEXT NOT NULL PRIMARY KEY, client_org_id TEXT NOT NULL, updated_at INTEGER NOT NULL);
CREATE TABLE usage_sync_runs (id INTEGER PRIMARY KEY, started_at INTEGER NOT NULL, ended_at INTEGER NOT NULL,
			client_org_id TEXT, organization TEXT, source TEXT, window_start INTEGER, window_end INTEGER,
			fetched INTEGER NOT NULL, recorded INTEGER NOT NULL, updated INTEGER NOT NULL, duplicates INTEGER NOT NULL,
			refused INTEGER NOT NULL, tokens INTEGER NOT NULL, raw_cost REAL NOT NULL, markup_cost REAL NOT NULL,
			api_requests INTEGER NOT NULL, exit_code INTEGER NOT NULL, error TEXT, note TEXT);
INSERT INTO "usage_sync_runs" VALUES(1,1762959600,1762959600,'acme','Acme GmbH','generations',1762819200,1762959600,24,24,0,0,0,200,0.02,0.026,6,0,NULL,NULL);
CREATE TABLE usage_sync_sources (client_org_id TEXT NOT NULL PRIMARY KEY, key_mark TEXT NOT NULL, source TEXT, tried_at INTEGER,
			key_hash TEXT, proved INTEGER);
CREATE TABLE usage_sync_state (client_org_id TEXT NOT NULL PRIMARY KEY, covered_from INTEGER, covered_to INTEGER, full_day TEXT,
			takeover TEXT, takeover_until INTEGER, updated_at INTEGER NOT NULL, takeover_from INTEGER);
INSERT INTO "usage_sync_state" VALUES('acme',1762819200,1762959600,'2025-11-12',NULL,NULL,1762959600,NULL);
CREATE TABLE usage_sync_totals (client_org_id TEXT NOT NULL, counter TEXT NOT NULL, label TEXT NOT NULL, value INTEGER NOT NULL,
			PRIMARY KEY (client_org_id, counter, label)) WITHOUT ROWID;
INSERT INTO "usage_sync_totals" VALUES('acme','generations','duplicate',0);
INSERT INTO "usage_sync_totals" VALUES('acme','generations','recorded',24);
INSERT INTO "usage_sync_totals" VALUES('acme','generations','refused',0);
INSERT INTO "usage_sync_totals" VALUES('acme','generations','updated',0);
INSERT INTO "usage_sync_totals" VALUES('acme','passes','0',1);
INSERT INTO "usage_sync_totals" VALUES('acme','requests','200',6);
INSERT INTO "usage_sync_totals" VALUES('acme','retries','',0);
INSERT INTO "usage_sync_totals" VALUES('acme','success','',1762959600);
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
CREATE INDEX usage_sync_runs_org ON usage_sync_runs (client_org_id, started_at);
CREATE INDEX usage_sync_runs_started ON usage_sync_runs (started_at);
COMMIT;
