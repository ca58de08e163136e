-- Makes of a log what the version with schema 4 would have written.
DROP TRIGGER entries_stay;
DROP TRIGGER entries_remain;
UPDATE entries SET
    first_role = body ->> '$.event.request.role',
    first_purpose = body ->> '$.event.request.purpose';
DROP INDEX entries_requester;
DROP INDEX entries_role;
DROP INDEX entries_purpose;
DROP INDEX entries_state;
DROP INDEX entries_of_a_day;
ALTER TABLE entries RENAME COLUMN first_role TO role;
ALTER TABLE entries RENAME COLUMN first_purpose TO purpose;
CREATE INDEX entries_time ON entries (time);
CREATE INDEX entries_requester ON entries (requester) WHERE requester IS NOT NULL;
CREATE INDEX entries_role ON entries (role) WHERE role IS NOT NULL;
CREATE INDEX entries_purpose ON entries (purpose) WHERE purpose IS NOT NULL;
CREATE INDEX entries_state ON entries (kind)
    WHERE kind NOT IN ('certificate-issued', 'request-refused', 'unauthenticated-refused',
        'session-begun', 'session-touched', 'session-ended', 'approval-given');
CREATE INDEX entries_of_a_day ON entries (time)
    WHERE kind IN ('session-begun', 'session-touched', 'session-ended', 'approval-given');
CREATE TRIGGER entries_stay BEFORE UPDATE ON entries
    BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER entries_remain BEFORE DELETE ON entries
    WHEN old.idx >= coalesce((SELECT next FROM archives ORDER BY first DESC LIMIT 1), 0)
        OR old.idx % 256 = 0
        OR old.kind NOT IN ('certificate-issued', 'request-refused', 'unauthenticated-refused',
            'session-begun', 'session-touched', 'session-ended', 'approval-given')
    BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
PRAGMA user_version = 4;
