-- An event may be told to several people, each in a mail of its own. Nil: there is one mail, and whom it goes to stands in the event. That
-- is also what rows from before have, and what a node of the version before writes.
alter table mails add column recipient uuid not null default '00000000-0000-0000-0000-000000000000';
alter table mails drop constraint mails_pkey;
alter table mails add primary key (position, recipient);
