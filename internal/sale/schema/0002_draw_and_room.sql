-- How units are given (a race for everybody, or a draw among those who entered until draw_at), whether buyers may wait for units
-- that come back, and what stands before the sale: a waiting room with its pace, and a brake against robots. The column admission,
-- which is older, tells whether a purchase needs an admission token. Sales from before are races with the gentlest policy.
ALTER TABLE sale_head ADD COLUMN mode VARCHAR(10) NOT NULL DEFAULT 'race';
ALTER TABLE sale_head ADD COLUMN draw_at BIGINT NOT NULL DEFAULT 0;
ALTER TABLE sale_head ADD COLUMN waiting_list SMALLINT NOT NULL DEFAULT 1;
ALTER TABLE sale_head ADD COLUMN room SMALLINT NOT NULL DEFAULT 0;
ALTER TABLE sale_head ADD COLUMN room_order VARCHAR(10) NOT NULL DEFAULT 'arrival';
ALTER TABLE sale_head ADD COLUMN room_pace INTEGER NOT NULL DEFAULT 100;
ALTER TABLE sale_head ADD COLUMN room_multiple INTEGER NOT NULL DEFAULT 3;
ALTER TABLE sale_head ADD COLUMN brake VARCHAR(10) NOT NULL DEFAULT 'none';
ALTER TABLE sale_head ADD COLUMN brake_bits INTEGER NOT NULL DEFAULT 16;
ALTER TABLE sale_head ADD COLUMN per_address INTEGER NOT NULL DEFAULT 0;
